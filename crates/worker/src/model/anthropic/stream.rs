//! Putting the events of a message together: `message_start`, per content block start, deltas and stop,
//! `message_delta` with the stop reason, `message_stop`. `ping` and kinds unknown to us are passed over.

use super::PROVIDER;
use crate::model::answers::{self, VendorFault};
use crate::model::http::{Assembler, Flow, SoFar};
use crate::model::sse::SseEvent;
use agent::ports::{ModelError, ModelReply, StopReason, ToolUse};
use domain::Usage;
use serde_json::Value;
use std::collections::BTreeMap;

/// The reply so far; blocks by their index.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    blocks: BTreeMap<u64, Block>,
    stop: Option<String>,
    input_tokens: Option<i64>,
    cached_tokens: i64,
    cache_write_tokens: i64,
    output_tokens: Option<i64>,
    /// Characters of text and arguments that have come.
    chars: usize,
    began: bool,
    fresh: Fresh,
    model: Option<String>,
    done: bool,
}

/// The text of the last event, until it is asked for.
#[derive(Debug, Default)]
struct Fresh(Option<String>);

#[derive(Debug)]
enum Block {
    Text(String),
    Call {
        id: String,
        name: String,
        /// Given whole at the start by some servers.
        input: Value,
        /// The deltas joined.
        json: String,
    },
    Other,
}

impl Assembler for Assembly {
    fn take(&mut self, event: &SseEvent) -> Result<Flow, ModelError> {
        let data: Value = serde_json::from_str(&event.data)
            .map_err(|_| answers::transient(PROVIDER, "sent a stream event that is no valid JSON"))?;
        let index = data["index"].as_u64().unwrap_or_default();
        self.fresh.0 = None;
        match data["type"]
            .as_str()
            .or(event.event.as_deref())
            .unwrap_or_default()
        {
            "error" => return Err(fault(&data)),
            "message_start" => self.add_head(&data["message"]),
            "content_block_start" => {
                self.blocks.insert(index, Block::start(&data["content_block"]));
            }
            "content_block_delta" => {
                if let Some(block) = self.blocks.get_mut(&index) {
                    self.chars += block.add(&data["delta"]);
                    if let (Block::Text(_), Some(text)) = (block, data["delta"]["text"].as_str()) {
                        self.fresh.0 = Some(text.to_owned()).filter(|text| !text.is_empty());
                    }
                }
            }
            "message_delta" => {
                self.add_stop(&data["delta"]);
                self.add_usage(&data["usage"]);
            }
            "message_stop" => {
                self.done = true;
                return Ok(Flow::End);
            }
            _ => {}
        }
        Ok(Flow::More)
    }

    fn take_whole(&mut self, reply: &Value) -> Result<(), ModelError> {
        if reply["type"] == "error" || reply.get("error").is_some() {
            return Err(fault(reply));
        }
        self.add_head(reply);
        self.add_stop(reply);
        for (index, block) in (0..).zip(reply["content"].as_array().into_iter().flatten()) {
            self.blocks.insert(index, Block::start(block));
        }
        self.done = true;
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.done || self.stop.is_some()
    }

    fn fresh_text(&mut self) -> Option<&str> {
        self.fresh.0.as_deref()
    }

    fn so_far(&self) -> Option<SoFar> {
        let usage = self.input_tokens.map(|input| self.usage(input));
        self.began.then_some(SoFar {
            usage,
            chars: self.chars,
        })
    }
}

impl Assembly {
    fn add_head(&mut self, message: &Value) {
        self.began = true;
        self.model = message["model"].as_str().map(str::to_owned);
        self.add_usage(&message["usage"]);
    }

    fn add_stop(&mut self, holder: &Value) {
        if let Some(reason) = holder["stop_reason"].as_str() {
            self.stop = Some(reason.to_owned());
        }
    }

    /// Later figures replace earlier ones (they are totals); cached input counts as input.
    fn add_usage(&mut self, usage: &Value) {
        if let Some(fresh) = usage["input_tokens"].as_i64() {
            self.cached_tokens = usage["cache_read_input_tokens"].as_i64().unwrap_or(0);
            self.cache_write_tokens = usage["cache_creation_input_tokens"].as_i64().unwrap_or(0);
            self.input_tokens = Some(fresh + self.cached_tokens + self.cache_write_tokens);
        }
        self.output_tokens = usage["output_tokens"].as_i64().or(self.output_tokens);
    }

    fn usage(&self, input_tokens: i64) -> Usage {
        Usage {
            input_tokens,
            output_tokens: self.output_tokens.unwrap_or(0),
            cached_tokens: self.cached_tokens,
            cache_write_tokens: self.cache_write_tokens,
            ..Usage::default()
        }
    }

    /// The whole reply; its usage is marked as estimated (and zero) when the server did not say.
    pub(super) fn finish(self, model: &str) -> ModelReply {
        let usage = match (self.input_tokens, self.output_tokens) {
            (Some(input_tokens), Some(_)) => self.usage(input_tokens),
            _ => Usage {
                is_estimated: true,
                ..Usage::default()
            },
        };
        let mut text = String::new();
        let mut tool_calls = vec![];
        for block in self.blocks.into_values() {
            match block {
                Block::Text(part) => text.push_str(&part),
                Block::Call {
                    id,
                    name,
                    input,
                    json,
                } => tool_calls.push(ToolUse {
                    id,
                    name,
                    input: if json.is_empty() {
                        input
                    } else {
                        crate::model::read_input(&json)
                    },
                }),
                Block::Other => {}
            }
        }
        let stop = match self.stop.as_deref() {
            Some("max_tokens" | "model_context_window_exceeded") => StopReason::Length,
            Some("refusal" | "pause_turn") => StopReason::Other,
            _ if !tool_calls.is_empty() => StopReason::ToolUse,
            Some("end_turn" | "stop_sequence") | None => StopReason::End,
            Some(_) => StopReason::Other,
        };
        if stop == StopReason::Length {
            tool_calls.clear();
        }
        ModelReply {
            text: Some(text).filter(|text| !text.is_empty()),
            tool_calls,
            stop,
            usage,
            model: self.model.unwrap_or_else(|| model.to_owned()),
            provider: PROVIDER.to_owned(),
        }
    }
}

impl Block {
    fn start(block: &Value) -> Self {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str() {
            Some("text") => Self::Text(text("text")),
            Some("tool_use") => Self::Call {
                id: text("id"),
                name: text("name"),
                input: block
                    .get("input")
                    .cloned()
                    .unwrap_or_else(|| Value::Object(serde_json::Map::new())),
                json: String::new(),
            },
            _ => Self::Other,
        }
    }

    /// Gives the number of characters that have come.
    fn add(&mut self, delta: &Value) -> usize {
        let of = |name: &str| delta[name].as_str().unwrap_or_default();
        let (kept, piece) = match self {
            Self::Text(text) => (text, of("text")),
            Self::Call { json, .. } => (json, of("partial_json")),
            Self::Other => return of("thinking").chars().count(),
        };
        kept.push_str(piece);
        piece.chars().count()
    }
}

fn fault(document: &Value) -> ModelError {
    answers::decide_stream_fault(PROVIDER, &VendorFault::from_value(document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assemble(events: &[Value]) -> Result<Assembly, ModelError> {
        let mut assembly = Assembly::default();
        for event in events {
            assembly.take(&SseEvent {
                event: None,
                data: event.to_string(),
            })?;
        }
        Ok(assembly)
    }

    fn start() -> Value {
        json!({"type": "message_start", "message": {"model": "c-1",
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}}})
    }

    fn call_events(stop: &str) -> Vec<Value> {
        vec![
            start(),
            json!({"type": "ping"}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I look"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_start", "index": 1,
                "content_block": {"type": "tool_use", "id": "t1", "name": "shell", "input": {}}}),
            json!({"type": "content_block_delta", "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": "{\"command\":"}}),
            json!({"type": "content_block_delta", "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": "\"ls\"}"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 20}}),
            json!({"type": "message_stop"}),
        ]
    }

    #[test]
    fn text_calls_and_usage_are_put_together() {
        let reply = assemble(&call_events("tool_use")).unwrap().finish("m");
        assert_eq!(reply.text.as_deref(), Some("I look"));
        assert_eq!(reply.tool_calls[0].input, json!({"command": "ls"}));
        assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens), (15, 20));
        assert_eq!((reply.stop, reply.model.as_str()), (StopReason::ToolUse, "c-1"));
        assert_eq!(reply.usage.cached_tokens, 5);
    }

    #[test]
    fn text_is_fresh_once_and_what_was_used_is_known_before_the_end() {
        let mut assembly = Assembly::default();
        let mut said = vec![];
        assert_eq!(assembly.so_far(), None);
        for event in &call_events("tool_use")[..8] {
            let data = event.to_string();
            assembly.take(&SseEvent { event: None, data }).unwrap();
            said.extend(assembly.fresh_text().map(str::to_owned));
        }
        assert_eq!(said, ["I look"]);
        let so_far = assembly.so_far().unwrap();
        assert_eq!(so_far.usage.unwrap().input_tokens, 15);
        assert_eq!(so_far.chars, "I look{\"command\":\"ls\"}".len());
    }

    #[test]
    fn a_call_cut_at_the_limit_is_dropped() {
        let reply = assemble(&call_events("max_tokens")).unwrap().finish("m");
        assert_eq!((reply.stop, reply.tool_calls.len()), (StopReason::Length, 0));
    }

    #[test]
    fn overload_in_the_middle_is_transient_and_a_bad_request_is_not() {
        let error = |kind: &str| json!({"type": "error", "error": {"type": kind, "message": "m"}});
        let failed = assemble(&[start(), error("overloaded_error")]);
        assert!(matches!(failed, Err(ModelError::Transient { .. })));
        let failed = assemble(&[start(), error("invalid_request_error")]);
        assert!(matches!(failed, Err(ModelError::Permanent { .. })));
    }

    #[test]
    fn a_reply_given_at_once_is_understood() {
        let mut assembly = Assembly::default();
        let content = json!([{"type": "thinking"}, {"type": "text", "text": "hi"}]);
        assembly
            .take_whole(&json!({"content": content, "stop_reason": "end_turn"}))
            .unwrap();
        let reply = assembly.finish("m");
        assert_eq!((reply.text.as_deref(), reply.stop), (Some("hi"), StopReason::End));
        assert!(reply.usage.is_estimated);
    }
}
