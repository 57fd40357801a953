//! Counting tools for the fault tests: another system that counts how often it was asked, on loopback only.
//!
//! They stand for tools in other systems in general: each call carries the step's idempotency key and the claim's epoch
//! (`Fencing-Token`), and a lost answer is told apart from a call that was never sent.

use agent::ports::{NoRemoteTools, RemoteTools, ToolSpec};
use agent::tools::{Call, ToolError};
use domain::{Effect, Labels, ToolResult};
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest time of one call.
const CALL_LIMIT: Duration = Duration::from_mins(1);

const TOOLS: [(&str, Effect); 3] = [
    ("count_pure", Effect::Pure),
    ("count_idempotent", Effect::Idempotent),
    ("count_at_most_once", Effect::AtMostOnce),
];

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressFault {
    #[error("not an address: {0}")]
    NotAnAddress(String),
    #[error("must be http on a loopback address")]
    NotLoopback,
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

/// The three tools.
#[derive(Debug, Clone)]
pub struct CountingTools {
    base: Url,
    client: Client,
}

impl CountingTools {
    /// At `http://127.0.0.1:PORT`.
    pub fn at(url: &str) -> Result<Self, AddressFault> {
        let base = Url::parse(url).map_err(|fault| AddressFault::NotAnAddress(fault.to_string()))?;
        let loopback = base.host_str() == Some("127.0.0.1") && base.scheme() == "http";
        if !loopback {
            return Err(AddressFault::NotLoopback);
        }
        let client = Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(CALL_LIMIT)
            .build()
            .map_err(AddressFault::Client)?;
        Ok(Self { base, client })
    }

    async fn send(&self, call: &Call<'_>) -> Result<ToolResult, ToolError> {
        let url = self
            .base
            .join(call.tool_name)
            .map_err(|fault| ToolError::Retry(fault.to_string()))?;
        let body = json!({"run_id": call.run_id, "step_id": call.step_id, "tool_input": call.tool_input});
        let request = self
            .client
            .post(url)
            .header("Idempotency-Key", call.idempotency_key)
            .header("Fencing-Token", call.epoch)
            .json(&body);
        let answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        let text = answer.text().await.map_err(lost)?;
        judge(status, &text)
    }
}

/// Without a connection nothing was sent; else nobody knows.
fn lost(error: reqwest::Error) -> ToolError {
    let text = crate::log::with_sources(&error);
    if error.is_connect() {
        ToolError::Retry(text)
    } else {
        ToolError::Unknown(format!("no answer: {text}"))
    }
}

fn judge(status: StatusCode, text: &str) -> Result<ToolResult, ToolError> {
    if status == StatusCode::CONFLICT {
        return Err(ToolError::Cancelled);
    }
    if !status.is_success() {
        let error = format!("counting server answered {}", status.as_u16());
        return Err(ToolError::ToModel(Box::new(ToolResult::failed(error, 0.0))));
    }
    let output: Value = serde_json::from_str(text).unwrap_or_else(|_| json!({}));
    Ok(ToolResult::ok(output, 0.0))
}

/// What this worker has.
#[derive(Debug, Clone)]
pub enum AnyRemote {
    None(NoRemoteTools),
    Counting(CountingTools),
}

impl AnyRemote {
    /// The address was checked with the settings.
    pub fn from_url(url: Option<&str>) -> Self {
        match url.map(CountingTools::at) {
            Some(Ok(tools)) => {
                tracing::warn!("counting tools of the fault tests are on");
                Self::Counting(tools)
            }
            _ => Self::None(NoRemoteTools),
        }
    }
}

impl RemoteTools for AnyRemote {
    fn specs(&self) -> Vec<ToolSpec> {
        match self {
            Self::None(none) => none.specs(),
            Self::Counting(_) => TOOLS
                .iter()
                .map(|(name, effect)| ToolSpec {
                    name: (*name).to_owned(),
                    description: format!("Counts its calls; its effect is {}.", effect.as_str()),
                    input_schema: json!({"type": "object"}),
                })
                .collect(),
        }
    }

    fn labels_of(&self, _: &str, _: &Value) -> Labels {
        Labels::default()
    }

    fn effect_of(&self, tool_name: &str, tool_input: &Value) -> Option<Effect> {
        match self {
            Self::None(none) => none.effect_of(tool_name, tool_input),
            Self::Counting(_) => TOOLS
                .iter()
                .find(|(name, _)| *name == tool_name)
                .map(|(_, effect)| *effect),
        }
    }

    async fn call(&self, call: &Call<'_>, cancel: &CancellationToken) -> Result<ToolResult, ToolError> {
        match self {
            Self::None(none) => none.call(call, cancel).await,
            Self::Counting(tools) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ToolError::Cancelled),
                answered = tools.send(call) => answered,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_tools_stay_on_this_machine() {
        assert!(CountingTools::at("http://127.0.0.1:9").is_ok());
        for refused in [
            "http://example.org",
            "https://127.0.0.1:9",
            "nonsense",
            "http://10.0.0.1/",
        ] {
            assert!(CountingTools::at(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_refused_epoch_ends_the_drive_and_a_fault_goes_to_the_model() {
        assert!(matches!(
            judge(StatusCode::CONFLICT, ""),
            Err(ToolError::Cancelled)
        ));
        let failed = judge(StatusCode::INTERNAL_SERVER_ERROR, "");
        assert!(matches!(failed, Err(ToolError::ToModel(_))));
        let counted = judge(StatusCode::OK, r#"{"count":1}"#);
        assert!(counted.is_ok_and(|result| result.output["count"] == 1));
    }
}
