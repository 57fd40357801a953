//! The Anthropic Messages protocol.
//!
//! The wire asks for turn about: neighbours of one role are merged, tool results come first in the user message that
//! follows their calls, empty texts are left out, the first message is the user's, and so is the last one.

mod stream;

use super::http::{self, Endpoint};
use super::{SetupError, VendorOptions, usage};
use agent::ports::{CallWatch, ChatMessage, Model, ModelError, ModelReply, ModelRequest};
use domain::Clock;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::Arc;
use stream::Assembly;
use tokio_util::sync::CancellationToken;

/// The provider's name in settings, logs and metrics.
pub const PROVIDER: &str = "anthropic";
/// Without `ANTHROPIC_BASE_URL`.
pub const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";
/// Without `LLM_DEFAULT_MODEL`.
pub const DEFAULT_MODEL: &str = "claude-sonnet-4-20250514";
/// The protocol's version.
const API_VERSION: &str = "2023-06-01";

/// A model behind the Messages protocol.
#[derive(Debug, Clone)]
pub struct Anthropic {
    endpoint: Endpoint,
}

impl Anthropic {
    /// No network; fails on a bad base URL or key.
    pub fn new(options: &VendorOptions, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let base = options
            .base_url
            .as_ref()
            .map_or(DEFAULT_BASE_URL, ExposeSecret::expose_secret);
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", HeaderValue::from_static(API_VERSION));
        if let Some(key) = &options.key {
            let mut value = HeaderValue::try_from(key.expose_secret())
                .map_err(|_| SetupError::BadKey("ANTHROPIC_API_KEY"))?;
            value.set_sensitive(true);
            headers.insert("x-api-key", value);
        }
        Ok(Self {
            endpoint: Endpoint {
                provider: PROVIDER,
                model: options.model.clone(),
                client: http::client()?,
                headers,
                chat_url: url(base, "messages")?,
                models_url: url(base, "models?limit=1")?,
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
        format!("anthropic model {} at {host}", self.endpoint.model)
    }

    async fn ask(&self, request: &ModelRequest, watch: &dyn CallWatch) -> Result<ModelReply, ModelError> {
        let mut assembly = Assembly::default();
        let body = body(request, &self.endpoint.model);
        self.endpoint
            .stream((request, &body), &mut assembly, watch)
            .await?;
        let mut reply = assembly.finish(&self.endpoint.model);
        if reply.usage.is_estimated {
            reply.usage = usage::estimate(request, &reply);
        }
        Ok(reply)
    }
}

impl Model for Anthropic {
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

/// `{base}/v1/{path}`, whether or not the base already ends in `/v1`.
fn url(base: &str, path: &str) -> Result<Url, SetupError> {
    let base = base.trim().trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    Url::parse(&format!("{base}/v1/{path}"))
        .ok()
        .filter(Url::has_host)
        .ok_or(SetupError::BadBaseUrl("ANTHROPIC_BASE_URL"))
}

fn body(request: &ModelRequest, model: &str) -> Value {
    let mut body = json!({
        "model": model,
        "messages": messages(request),
        "stream": true,
        "max_tokens": request.max_tokens,
        "temperature": super::temperature(request),
    });
    if !request.system.is_empty() {
        body["system"] = json!([{"type": "text", "text": request.system}]);
    }
    if !request.tools.is_empty() {
        let tool = |tool: &agent::ports::ToolSpec| json!({"name": tool.name, "description": tool.description, "input_schema": tool.input_schema});
        body["tools"] = request.tools.iter().map(tool).collect();
        body["tool_choice"] = json!({"type": "auto"});
    }
    mark_prefixes(&mut body);
    body
}

/// Marks where prefixes end that the next request begins with too: the tools, the system text, and the conversation so far.
/// The vendor then reads them from its cache; one that is too short for it is passed over.
fn mark_prefixes(body: &mut Value) {
    let conversation = body["messages"].as_array_mut().and_then(|messages| {
        let last = messages.iter().rposition(|message| !is_go_on(message))?;
        messages[last]["content"].as_array_mut()?.last_mut()
    });
    if let Some(block) = conversation {
        mark(block);
    }
    for list in ["system", "tools"] {
        if let Some(last) = body
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .and_then(|list| list.last_mut())
        {
            mark(last);
        }
    }
}

fn mark(block: &mut Value) {
    block["cache_control"] = json!({"type": "ephemeral"});
}

/// Stands at the end of this request only.
fn is_go_on(message: &Value) -> bool {
    message["content"][0]["text"] == super::GO_ON
}

/// Neighbouring messages of one role as one; in a user message `results` stand before `rest`.
#[derive(Default)]
struct Merged {
    is_user: bool,
    results: Vec<Value>,
    rest: Vec<Value>,
}

impl Merged {
    fn is_empty(&self) -> bool {
        self.results.is_empty() && self.rest.is_empty()
    }

    fn wire(mut self) -> Value {
        self.results.append(&mut self.rest);
        json!({"role": if self.is_user { "user" } else { "assistant" }, "content": self.results})
    }
}

fn messages(request: &ModelRequest) -> Vec<Value> {
    let mut merged: Vec<Merged> = vec![];
    for message in &request.messages {
        let is_user = !matches!(message, ChatMessage::Assistant { .. });
        let mut piece = Merged {
            is_user,
            ..Merged::default()
        };
        add_blocks(message, &mut piece);
        if piece.is_empty() {
            continue;
        }
        match merged.last_mut() {
            Some(last) if last.is_user == is_user => {
                last.results.append(&mut piece.results);
                last.rest.append(&mut piece.rest);
            }
            _ => merged.push(piece),
        }
    }
    let said_by_user = |said: &str| Merged {
        is_user: true,
        rest: text_block(said).into_iter().collect(),
        ..Merged::default()
    };
    if merged.first().is_none_or(|first| !first.is_user) {
        merged.insert(0, said_by_user(&request.prompt));
    }
    if merged.last().is_some_and(|last| !last.is_user) {
        merged.push(said_by_user(super::GO_ON));
    }
    merged.into_iter().map(Merged::wire).collect()
}

fn add_blocks(message: &ChatMessage, piece: &mut Merged) {
    match message {
        ChatMessage::User(text) => piece.rest.extend(text_block(text)),
        ChatMessage::Assistant { text, tool_calls } => {
            piece.rest.extend(text.as_deref().and_then(text_block));
            piece.rest.extend(tool_calls.iter().map(|call| {
                let input = super::object_input(&call.input);
                json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
            }));
        }
        ChatMessage::ToolResult {
            call_id,
            content,
            is_error,
            ..
        } => piece.results.push(json!({
            "type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": is_error})),
    }
}

/// The vendor refuses texts of nothing but white space, and such at the end of an assistant's message.
fn text_block(text: &str) -> Option<Value> {
    let text = text.trim_end();
    (!text.is_empty()).then(|| json!({"type": "text", "text": text}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;
    use agent::ports::ToolUse;

    #[test]
    fn the_conversation_takes_the_wire_form() {
        let mut request = sample::request();
        request.messages = sample::conversation();
        request.tools = sample::tools();
        let body = body(&request, "m");
        assert_eq!(
            body["messages"],
            json!([
                {"role": "user", "content": [{"type": "text", "text": "list"}]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "c1", "name": "shell", "input": {"command": "ls"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "a.txt", "is_error": false},
                    {"type": "text", "text": "go on"}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "done", "cache_control": {"type": "ephemeral"}}]},
                {"role": "user", "content": [{"type": "text", "text": "Continue."}]},
            ])
        );
        assert_eq!(body["tools"][0]["input_schema"]["type"], "object");
        assert!(body.get("system").is_none());
    }

    #[test]
    fn a_request_begins_as_the_one_before_and_says_where_its_prefixes_end() {
        let mut request = sample::request();
        request.system = "be careful".into();
        request.tools = sample::tools();
        request.messages = sample::conversation();
        let longer = body(&request, "m");
        request.messages.truncate(4);
        let shorter = body(&request, "m");
        let marked = json!({"type": "ephemeral"});
        assert_eq!(shorter["system"][0]["cache_control"], marked);
        assert_eq!(shorter["tools"][0]["cache_control"], marked);
        assert_eq!(shorter["messages"][2]["content"][1]["cache_control"], marked);
        let plain = |body: &Value| {
            let text = body.to_string();
            text.replace(",\"cache_control\":{\"type\":\"ephemeral\"}", "")
                .replace("\"cache_control\":{\"type\":\"ephemeral\"},", "")
        };
        let (longer, shorter) = (plain(&longer["messages"]), plain(&shorter["messages"]));
        assert!(
            longer.starts_with(shorter.trim_end_matches(']')),
            "{longer}\n{shorter}"
        );
    }

    #[test]
    fn results_come_first_though_the_user_spoke_before_them() {
        let mut request = sample::request();
        let call = |id: &str| ToolUse {
            id: id.into(),
            name: "x".into(),
            input: json!("no object"),
        };
        let result = |id: &str| ChatMessage::ToolResult {
            call_id: id.into(),
            name: "x".into(),
            content: String::new(),
            is_error: true,
        };
        request.messages = vec![
            ChatMessage::Assistant {
                text: Some("  ".into()),
                tool_calls: vec![call("1"), call("2")],
            },
            result("1"),
            ChatMessage::User("hurry".into()),
            result("2"),
        ];
        let messages = messages(&request);
        assert_eq!(messages[0]["content"][0]["text"], "do it");
        assert_eq!(messages[1]["content"][0]["input"], json!({"input": "no object"}));
        let kinds: Vec<_> = messages[2]["content"]
            .as_array()
            .unwrap()
            .iter()
            .map(|block| block["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["tool_result", "tool_result", "text"]);
    }

    #[test]
    fn a_base_url_may_end_in_its_version() {
        for base in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(url(base, "messages").unwrap().as_str(), "http://h:1/v1/messages");
        }
        assert!(url("nonsense", "messages").is_err());
    }
}
