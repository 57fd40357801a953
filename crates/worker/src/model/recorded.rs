//! Recorded replies ("cassettes"), one JSON file per request, found by the hash of the normalised request.
//!
//! Normalised: system text, messages, tools, token limit and temperature, without the model's name, the run id or the
//! attempt. UUIDs, RFC 3339 times and tool call ids are replaced by their place in order of appearance, and durations
//! (`…_ms`) in JSON tool results by zero, so that a second run finds what the first one recorded. Strict: a miss
//! is a permanent error, never a call to somebody else. Keys are no part of a request, so none is written.

mod normal;

use super::Vendor;
use super::{SetupError, answers};
use agent::ports::{CallWatch, Model, ModelError, ModelReply, ModelRequest, StopReason, ToolUse};
use domain::Usage;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// The provider's name in settings, logs and metrics.
pub const PROVIDER: &str = "recorded";

/// One file: the request it answers (for the reader; the name holds its hash) and the reply.
#[derive(Debug, Serialize, Deserialize)]
struct Cassette {
    request: Value,
    reply: RecordedReply,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedReply {
    text: Option<String>,
    tool_calls: Vec<RecordedCall>,
    stop: RecordedStop,
    usage: Usage,
    model: String,
    provider: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedCall {
    id: String,
    name: String,
    input: Value,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordedStop {
    End,
    ToolUse,
    Length,
    Other,
}

/// Plays cassettes.
#[derive(Debug, Clone)]
pub struct Recorded {
    dir: PathBuf,
}

/// Asks a live vendor and writes each whole reply.
#[derive(Debug, Clone)]
pub struct Recording {
    vendor: Vendor,
    dir: PathBuf,
}

impl Recorded {
    /// The directory must be there.
    pub fn new(dir: PathBuf) -> Result<Self, SetupError> {
        if dir.is_dir() {
            Ok(Self { dir })
        } else {
            Err(SetupError::CassetteDir(dir.display().to_string()))
        }
    }

    /// The directory is still there.
    pub fn check(&self) -> Result<(), String> {
        if self.dir.is_dir() {
            Ok(())
        } else {
            Err(format!("LLM_CASSETTE_DIR {} is gone", self.dir.display()))
        }
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        format!("recorded model replies of {}", self.dir.display())
    }

    async fn play(&self, request: &ModelRequest) -> Result<ModelReply, ModelError> {
        let hash = normal::hash(&normal::request(request));
        let path = self.dir.join(format!("{hash}.json"));
        let fault = |text: String| answers::permanent(PROVIDER, &text, None);
        let file = path.display();
        let bytes = tokio::fs::read(&path).await.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                fault(format!("has no reply for request {hash}: {file} is missing"))
            } else {
                fault(format!("reply {file} cannot be read: {error}"))
            }
        })?;
        let cassette: Cassette = serde_json::from_slice(&bytes)
            .map_err(|error| fault(format!("reply {file} is not valid: {error}")))?;
        Ok(cassette.reply.into_reply())
    }
}

impl Model for Recorded {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        _: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ModelError::Cancelled),
            reply = self.play(request) => reply,
        }
    }

    fn identity(&self) -> (String, String) {
        (PROVIDER.to_owned(), PROVIDER.to_owned())
    }
}

impl Recording {
    /// The directory is made with the first reply.
    pub fn new(vendor: Vendor, dir: PathBuf) -> Self {
        Self { vendor, dir }
    }

    /// The live vendor's check.
    pub async fn check(&self) -> Result<(), String> {
        self.vendor.check().await
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        format!("{}, recording to {}", self.vendor.describe(), self.dir.display())
    }

    async fn write(&self, request: &ModelRequest, reply: &ModelReply) -> io::Result<()> {
        let request = normal::request(request);
        let hash = normal::hash(&request);
        let cassette = Cassette {
            request,
            reply: RecordedReply::of(reply),
        };
        let mut text = serde_json::to_vec_pretty(&cassette)?;
        text.push(b'\n');
        write_whole(&self.dir, &hash, &text).await
    }
}

/// A reader never sees half a file.
async fn write_whole(dir: &Path, hash: &str, text: &[u8]) -> io::Result<()> {
    tokio::fs::create_dir_all(dir).await?;
    let unfinished = dir.join(format!(".{hash}.{}.part", std::process::id()));
    tokio::fs::write(&unfinished, text).await?;
    tokio::fs::rename(&unfinished, dir.join(format!("{hash}.json"))).await
}

impl Model for Recording {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let reply = self.vendor.call_watched(request, watch, cancel).await?;
        self.write(request, &reply).await.map_err(|error| {
            let text = format!("reply cannot be written to {}: {error}", self.dir.display());
            answers::permanent(PROVIDER, &text, None)
        })?;
        Ok(reply)
    }

    fn identity(&self) -> (String, String) {
        self.vendor.identity()
    }
}

impl RecordedReply {
    fn of(reply: &ModelReply) -> Self {
        let call = |call: &ToolUse| RecordedCall {
            id: call.id.clone(),
            name: call.name.clone(),
            input: call.input.clone(),
        };
        Self {
            text: reply.text.clone(),
            tool_calls: reply.tool_calls.iter().map(call).collect(),
            stop: match reply.stop {
                StopReason::End => RecordedStop::End,
                StopReason::ToolUse => RecordedStop::ToolUse,
                StopReason::Length => RecordedStop::Length,
                StopReason::Other => RecordedStop::Other,
            },
            usage: reply.usage,
            model: reply.model.clone(),
            provider: reply.provider.clone(),
        }
    }

    fn into_reply(self) -> ModelReply {
        let call = |call: RecordedCall| ToolUse {
            id: call.id,
            name: call.name,
            input: call.input,
        };
        ModelReply {
            text: self.text,
            tool_calls: self.tool_calls.into_iter().map(call).collect(),
            stop: match self.stop {
                RecordedStop::End => StopReason::End,
                RecordedStop::ToolUse => StopReason::ToolUse,
                RecordedStop::Length => StopReason::Length,
                RecordedStop::Other => StopReason::Other,
            },
            usage: self.usage,
            model: self.model,
            provider: PROVIDER.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;

    #[tokio::test]
    async fn a_written_reply_is_played_and_a_miss_names_hash_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let request = sample::request();
        let mut reply = sample::reply();
        reply.tool_calls = vec![ToolUse {
            id: "c".into(),
            name: "shell".into(),
            input: serde_json::json!({"command": "ls"}),
        }];
        let hash = normal::hash(&normal::request(&request));
        let recorded = Recorded::new(dir.path().to_owned()).unwrap();

        let miss = recorded
            .call(&request, &CancellationToken::new())
            .await
            .unwrap_err();
        assert!(matches!(miss, ModelError::Permanent { .. }));
        assert!(miss.to_string().contains(&format!("{hash}.json")), "{miss}");

        let cassette = Cassette {
            request: normal::request(&request),
            reply: RecordedReply::of(&reply),
        };
        let text = serde_json::to_vec(&cassette).unwrap();
        write_whole(dir.path(), &hash, &text).await.unwrap();
        let played = recorded.call(&request, &CancellationToken::new()).await.unwrap();
        reply.provider = PROVIDER.into();
        assert_eq!(played, reply);
        assert!(recorded.check().is_ok());
    }

    #[test]
    fn a_missing_directory_is_refused_at_the_start() {
        assert!(Recorded::new("/nonexistent/cassettes".into()).is_err());
    }
}
