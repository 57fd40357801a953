//! OpenAI-compatible chat completions: the vendor itself, vLLM, Ollama, gateways.
//!
//! `OPENAI_BASE_URL` may be given with or without its version: `http://host:11434` and
//! `http://host:11434/v1` mean the same; a path with any version segment (`/v1`, `/v1beta/openai`) is kept.

mod stream;

use super::http::{self, Endpoint};
use super::usage;
use super::{SetupError, VendorOptions};
use agent::ports::{CallWatch, ChatMessage, Model, ModelError, ModelReply, ModelRequest, ToolUse};
use domain::Clock;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::Arc;
use stream::Assembly;
use tokio_util::sync::CancellationToken;

/// The provider's name in settings, logs and metrics.
pub const PROVIDER: &str = "openai";
/// Without `OPENAI_BASE_URL`.
pub const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";
/// Without `LLM_DEFAULT_MODEL`.
pub const DEFAULT_MODEL: &str = "gpt-4o";

/// A model behind the chat completions protocol.
#[derive(Debug, Clone)]
pub struct OpenAi {
    endpoint: Endpoint,
}

impl OpenAi {
    /// No network; fails on a bad base URL or key. A base URL without a key is fine (local servers).
    pub fn new(options: &VendorOptions, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let base = base_url(
            options
                .base_url
                .as_ref()
                .map_or(DEFAULT_BASE_URL, ExposeSecret::expose_secret),
        )?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &options.key {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
                .map_err(|_| SetupError::BadKey("OPENAI_API_KEY"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self {
            endpoint: Endpoint {
                provider: PROVIDER,
                model: options.model.clone(),
                client: http::client()?,
                headers,
                chat_url: join(&base, "chat/completions")?,
                models_url: join(&base, "models")?,
                idle: options.idle,
                clock,
            },
        })
    }

    /// Reachable and the key is taken; uses no tokens, at most 2 s.
    pub async fn check(&self) -> Result<(), String> {
        self.endpoint.check().await
    }

    /// Provider, model and host.
    pub fn describe(&self) -> String {
        let host = self.endpoint.host();
        format!("openai-compatible model {} at {host}", self.endpoint.model)
    }

    async fn ask(&self, request: &ModelRequest, watch: &dyn CallWatch) -> Result<ModelReply, ModelError> {
        let mut assembly = Assembly::default();
        let body = body(request, &self.endpoint.model);
        self.endpoint
            .stream((request, &body), &mut assembly, watch)
            .await?;
        let mut reply = assembly.finish(request, &self.endpoint.model)?;
        if reply.usage.is_estimated {
            reply.usage = usage::estimate(request, &reply);
        }
        Ok(reply)
    }
}

impl Model for OpenAi {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ModelError::Cancelled),
            reply = self.ask(request, watch) => reply,
        }
    }

    fn identity(&self) -> (String, String) {
        (PROVIDER.to_owned(), self.endpoint.model.clone())
    }
}

/// The base with its version segment and without a slash at the end.
fn base_url(text: &str) -> Result<String, SetupError> {
    let base = text.trim().trim_end_matches('/');
    let url = Url::parse(base).map_err(|_| SetupError::BadBaseUrl("OPENAI_BASE_URL"))?;
    if !url.has_host() || url.query().is_some() {
        return Err(SetupError::BadBaseUrl("OPENAI_BASE_URL"));
    }
    let is_version = |segment: &str| {
        segment
            .strip_prefix('v')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let versioned = url
        .path_segments()
        .is_some_and(|mut segments| segments.any(is_version));
    Ok(if versioned {
        base.to_owned()
    } else {
        format!("{base}/v1")
    })
}

fn join(base: &str, path: &str) -> Result<Url, SetupError> {
    Url::parse(&format!("{base}/{path}")).map_err(|_| SetupError::BadBaseUrl("OPENAI_BASE_URL"))
}

fn body(request: &ModelRequest, model: &str) -> Value {
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if !request.system.is_empty() {
        messages.push(json!({"role": "system", "content": request.system}));
    }
    messages.extend(request.messages.iter().filter_map(message));
    if matches!(request.messages.last(), Some(ChatMessage::Assistant { .. })) {
        messages.push(json!({"role": "user", "content": super::GO_ON}));
    }
    let mut body = json!({
        "model": model,
        "messages": messages,
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_tokens": request.max_tokens,
        "temperature": super::temperature(request),
    });
    if !request.tools.is_empty() {
        let tool = |tool: &agent::ports::ToolSpec| {
            json!({"type": "function", "function": {
                "name": tool.name, "description": tool.description, "parameters": tool.input_schema}})
        };
        body["tools"] = request.tools.iter().map(tool).collect();
        body["tool_choice"] = json!("auto");
    }
    body
}

/// Messages that say nothing are left out; some servers refuse them.
fn message(message: &ChatMessage) -> Option<Value> {
    match message {
        ChatMessage::User(text) => (!text.is_empty()).then(|| json!({"role": "user", "content": text})),
        ChatMessage::Assistant { text, tool_calls } => {
            let text = text.as_deref().filter(|text| !text.is_empty());
            if tool_calls.is_empty() {
                return text.map(|text| json!({"role": "assistant", "content": text}));
            }
            let calls: Vec<Value> = tool_calls.iter().map(tool_call).collect();
            Some(json!({"role": "assistant", "content": text, "tool_calls": calls}))
        }
        ChatMessage::ToolResult { call_id, content, .. } => {
            Some(json!({"role": "tool", "tool_call_id": call_id, "content": content}))
        }
    }
}

fn tool_call(call: &ToolUse) -> Value {
    let arguments = super::object_input(&call.input).to_string();
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;

    #[test]
    fn a_base_url_means_the_same_with_and_without_its_version() {
        for (given, expected) in [
            ("http://localhost:11434", "http://localhost:11434/v1"),
            ("http://localhost:11434/", "http://localhost:11434/v1"),
            ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
            ("https://gw.example/llm", "https://gw.example/llm/v1"),
            (
                "https://g.example/v1beta/openai",
                "https://g.example/v1beta/openai",
            ),
        ] {
            assert_eq!(base_url(given).unwrap(), expected);
        }
        for bad in ["localhost", "not a url", "http://h/?q=1"] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_conversation_takes_the_wire_form() {
        let mut request = sample::request();
        request.system = "be good".into();
        request.messages = sample::conversation();
        request.tools = sample::tools();
        let body = body(&request, "m");
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "be good"},
                {"role": "user", "content": "list"},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
                    "function": {"name": "shell", "arguments": "{\"command\":\"ls\"}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
                {"role": "user", "content": "go on"},
                {"role": "assistant", "content": "done"},
                {"role": "user", "content": "Continue."},
            ])
        );
        let silent = ChatMessage::Assistant {
            text: Some(String::new()),
            tool_calls: vec![],
        };
        assert_eq!(message(&silent), None);
        assert_eq!(body["temperature"], json!(0.7));
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
        assert_eq!(body["tool_choice"], "auto");
        assert_eq!(body["tools"][0]["function"]["parameters"]["type"], "object");
    }
}
