//! The adapters of the agent's [`Model`] port.
//!
//! ```text
//! ModelOptions --connect--> WithRetries --> AnyModel: Scripted | Recorded | Recording(Vendor) | Vendor
//!                               |                                             OpenAi | Anthropic
//!                               '--> fallback vendor, once
//! ```
//!
//! Invariants: a reply is whole or an error; the error's variant is the decision; keys are
//! [`secrecy::SecretString`]s and sensitive headers, and stand in no error, log or cassette; firing the token or dropping
//! the future closes the connection.

mod answers;
pub mod anthropic;
mod http;
pub mod openai;
mod options;
pub mod recorded;
mod retry;
#[cfg(test)]
mod sample;
pub mod scripted;
mod sse;
mod usage;

pub use anthropic::Anthropic;
pub use openai::OpenAi;
pub use options::ModelOptions;
pub use recorded::{Recorded, Recording};
pub use retry::{RetryWaits, WithRetries};
pub use scripted::Scripted;
pub use sse::{EventTooLarge, MAX_EVENT_BYTES, SseEvent, SseParser};

use agent::ports::{CallWatch, Model, ModelError, ModelReply, ModelRequest};
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Said by the user where the history ends with the assistant: the model would continue its own sentence else.
const GO_ON: &str = "Continue.";

/// Why no model can be made of the settings; found before any network call.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The names are settings; nothing is chosen silently in their place.
    #[error("{what} is not configured: set {settings}")]
    Missing {
        what: &'static str,
        settings: &'static str,
    },
    #[error("LLM_PRIMARY_PROVIDER is `{0}`; it must be anthropic, openai, recorded or scripted")]
    UnknownProvider(String),
    #[error("{0} is no http or https URL")]
    BadBaseUrl(&'static str),
    #[error("{0} holds characters that cannot be sent")]
    BadKey(&'static str),
    #[error("LLM_SCRIPT_FILE {path} cannot be read: {reason}")]
    ScriptFile { path: String, reason: String },
    #[error("LLM_PRICES_FILE {path} cannot be used: {reason}")]
    PricesFile { path: String, reason: String },
    #[error("LLM_CASSETTE_DIR {0} is no directory")]
    CassetteDir(String),
    #[error("the HTTP client cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// What both vendors' clients are made of.
#[derive(Debug, Clone)]
pub struct VendorOptions {
    pub model: String,
    pub key: Option<SecretString>,
    /// `None`: the vendor's own. Secret, as it may hold a password.
    pub base_url: Option<SecretString>,
    /// Longest silence of a stream.
    pub idle: Duration,
}

/// A model reached over HTTP.
#[derive(Debug, Clone)]
pub enum Vendor {
    OpenAi(OpenAi),
    Anthropic(Anthropic),
}

/// Any model the settings can name; one try, no retries.
#[derive(Debug, Clone)]
pub enum AnyModel {
    Scripted(Scripted),
    Recorded(Recorded),
    Recording(Recording),
    Vendor(Vendor),
}

impl Vendor {
    /// Reachable and the key is taken; uses no tokens, at most 2 s.
    pub async fn check(&self) -> Result<(), String> {
        match self {
            Self::OpenAi(model) => model.check().await,
            Self::Anthropic(model) => model.check().await,
        }
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        match self {
            Self::OpenAi(model) => model.describe(),
            Self::Anthropic(model) => model.describe(),
        }
    }
}

impl Model for Vendor {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        match self {
            Self::OpenAi(model) => model.call_watched(request, watch, cancel).await,
            Self::Anthropic(model) => model.call_watched(request, watch, cancel).await,
        }
    }

    fn identity(&self) -> (String, String) {
        match self {
            Self::OpenAi(model) => model.identity(),
            Self::Anthropic(model) => model.identity(),
        }
    }
}

impl AnyModel {
    /// Whether the model can be used now, for readiness: uses no tokens, at most 2 s.
    pub async fn check(&self) -> Result<(), String> {
        match self {
            Self::Scripted(_) => Ok(()),
            Self::Recorded(model) => model.check(),
            Self::Recording(model) => model.check().await,
            Self::Vendor(vendor) => vendor.check().await,
        }
    }

    /// One line for the log: which model answers.
    pub fn describe(&self) -> String {
        match self {
            Self::Scripted(model) => model.describe(),
            Self::Recorded(model) => model.describe(),
            Self::Recording(model) => model.describe(),
            Self::Vendor(vendor) => vendor.describe(),
        }
    }
}

impl Model for AnyModel {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        match self {
            Self::Scripted(model) => model.call_watched(request, watch, cancel).await,
            Self::Recorded(model) => model.call_watched(request, watch, cancel).await,
            Self::Recording(model) => model.call_watched(request, watch, cancel).await,
            Self::Vendor(vendor) => vendor.call_watched(request, watch, cancel).await,
        }
    }

    fn identity(&self) -> (String, String) {
        match self {
            Self::Scripted(model) => model.identity(),
            Self::Recorded(model) => model.identity(),
            Self::Recording(model) => model.identity(),
            Self::Vendor(vendor) => vendor.identity(),
        }
    }
}

/// A tool call's arguments: none is `{}`; what is no JSON stays text, for the tool's validation to refuse.
fn read_input(arguments: &str) -> Value {
    if arguments.trim().is_empty() {
        return Value::Object(Map::new());
    }
    serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.to_owned()))
}

/// An input for the wire, where only objects are allowed: others are wrapped, so that the model sees what it sent.
fn object_input(input: &Value) -> Value {
    match input {
        Value::Object(_) => input.clone(),
        Value::Null => Value::Object(Map::new()),
        other => serde_json::json!({ "input": other }),
    }
}

/// 0.7 and not 0.699999988: widened by way of its decimal form.
fn temperature(request: &ModelRequest) -> f64 {
    (f64::from(request.temperature) * 1000.0).round() / 1000.0
}
