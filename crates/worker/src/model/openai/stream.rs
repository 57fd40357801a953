//! Putting the deltas of a chat completion together.
//!
//! Servers differ: tool calls without an index or with the same index for each (told apart by their ids), arguments
//! as an object, no `[DONE]`, no usage, the whole answer at once. Nothing is run of a call cut at the limit.

use super::PROVIDER;
use crate::model::answers::{self, VendorFault};
use crate::model::http::{Assembler, Flow, SoFar};
use crate::model::sse::SseEvent;
use agent::ports::{ModelError, ModelReply, ModelRequest, Purpose, StopReason, ToolUse};
use domain::Usage;
use serde_json::Value;

/// The reply so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    text: String,
    calls: Vec<PartialCall>,
    finish: Option<String>,
    usage: Option<Usage>,
    model: Option<String>,
    done: bool,
    began: bool,
    /// Bytes of `text` that were asked for.
    shown: usize,
}

#[derive(Debug, Default)]
struct PartialCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Assembler for Assembly {
    fn take(&mut self, event: &SseEvent) -> Result<Flow, ModelError> {
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Flow::End);
        }
        if event.data.trim().is_empty() {
            return Ok(Flow::More);
        }
        let chunk: Value = serde_json::from_str(&event.data)
            .map_err(|_| answers::transient(PROVIDER, "sent a stream event that is no valid JSON"))?;
        if event.event.as_deref() == Some("error") {
            return Err(fault(&chunk));
        }
        self.add(&chunk, "delta")?;
        Ok(Flow::More)
    }

    fn take_whole(&mut self, reply: &Value) -> Result<(), ModelError> {
        self.add(reply, "message")?;
        self.done = true;
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.done || self.finish.is_some()
    }

    fn fresh_text(&mut self) -> Option<&str> {
        let from = std::mem::replace(&mut self.shown, self.text.len());
        self.text.get(from..).filter(|text| !text.is_empty())
    }

    fn so_far(&self) -> Option<SoFar> {
        let arguments = self.calls.iter().map(|call| call.arguments.chars().count());
        self.began.then(|| SoFar {
            usage: self.usage,
            chars: self.text.chars().count() + arguments.sum::<usize>(),
        })
    }
}

impl Assembly {
    /// Adds a chunk; the choice's content is under `part`.
    fn add(&mut self, chunk: &Value, part: &str) -> Result<(), ModelError> {
        let is_error = chunk.get("error").is_some_and(|error| !error.is_null());
        if is_error || chunk["object"] == "error" {
            return Err(fault(chunk));
        }
        if let Some(model) = chunk["model"].as_str().filter(|model| !model.is_empty()) {
            self.model = Some(model.to_owned());
        }
        let count = |name: &str| chunk["usage"][name].as_i64();
        if let (Some(input_tokens), Some(output_tokens)) =
            (count("prompt_tokens"), count("completion_tokens"))
        {
            let detail = |part: &str, name: &str| chunk["usage"][part][name].as_i64().unwrap_or(0);
            self.usage = Some(Usage {
                input_tokens,
                output_tokens,
                cached_tokens: detail("prompt_tokens_details", "cached_tokens"),
                reasoning_tokens: detail("completion_tokens_details", "reasoning_tokens"),
                ..Usage::default()
            });
        }
        self.began = true;
        let choice = &chunk["choices"][0];
        let delta = &choice[part];
        for field in ["content", "refusal"] {
            self.text.push_str(delta[field].as_str().unwrap_or_default());
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.add_call(call);
        }
        if let Some(reason) = choice["finish_reason"]
            .as_str()
            .filter(|reason| !reason.is_empty())
        {
            self.finish = Some(reason.to_owned());
        }
        Ok(())
    }

    fn add_call(&mut self, delta: &Value) {
        let index = delta["index"].as_u64();
        let id = delta["id"].as_str().unwrap_or_default();
        let new_without_index = index.is_none() && id.is_empty() && !delta["function"]["name"].is_null();
        let known = self.calls.iter().rposition(|call| {
            let same_place = index.is_none() || call.index == index;
            !new_without_index && same_place && (id.is_empty() || call.id.is_empty() || call.id == id)
        });
        let at = known.unwrap_or_else(|| {
            self.calls.push(PartialCall {
                index,
                ..PartialCall::default()
            });
            self.calls.len() - 1
        });
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        let function = &delta["function"];
        // Some servers repeat the name in each delta.
        if call.name.is_empty() {
            function["name"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut call.name);
        }
        match &function["arguments"] {
            Value::String(part) => call.arguments.push_str(part),
            whole @ Value::Object(_) => call.arguments = whole.to_string(),
            _ => {}
        }
    }

    /// The whole reply; its usage is marked as estimated (and zero) when the server did not say.
    pub(super) fn finish(self, request: &ModelRequest, model: &str) -> Result<ModelReply, ModelError> {
        let nothing = self.text.is_empty() && self.calls.is_empty();
        if nothing && self.finish.is_none() {
            return Err(answers::transient(PROVIDER, "sent an empty reply"));
        }
        let stop = match self.finish.as_deref() {
            Some("length") => StopReason::Length,
            Some("content_filter") => StopReason::Other,
            _ if !self.calls.is_empty() => StopReason::ToolUse,
            Some("stop") | None => StopReason::End,
            Some(_) => StopReason::Other,
        };
        let turn = match request.purpose {
            Purpose::Turn { number } => number,
            Purpose::Plan { .. } => 0,
        };
        let calls = if stop == StopReason::Length {
            vec![]
        } else {
            self.calls
        };
        let tool_calls = (0..).zip(calls).map(|(index, call)| call.whole(turn, index));
        Ok(ModelReply {
            text: Some(self.text).filter(|text| !text.is_empty()),
            tool_calls: tool_calls.collect(),
            stop,
            usage: self.usage.unwrap_or(Usage {
                is_estimated: true,
                ..Usage::default()
            }),
            model: self.model.unwrap_or_else(|| model.to_owned()),
            provider: PROVIDER.to_owned(),
        })
    }
}

impl PartialCall {
    fn whole(self, turn: u32, index: u32) -> ToolUse {
        ToolUse {
            id: if self.id.is_empty() {
                format!("call_{turn}_{index}")
            } else {
                self.id
            },
            name: self.name,
            input: crate::model::read_input(&self.arguments),
        }
    }
}

fn fault(document: &Value) -> ModelError {
    answers::decide_stream_fault(PROVIDER, &VendorFault::from_value(document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;
    use serde_json::json;

    fn assemble(chunks: &[Value]) -> Result<Assembly, ModelError> {
        let mut assembly = Assembly::default();
        for chunk in chunks {
            assembly.take(&SseEvent {
                event: None,
                data: chunk.to_string(),
            })?;
        }
        Ok(assembly)
    }

    fn reply(chunks: &[Value]) -> ModelReply {
        assemble(chunks).unwrap().finish(&sample::request(), "m").unwrap()
    }

    fn delta(delta: Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    fn finish(reason: &str) -> Value {
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    }

    fn call(index: Option<u64>, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
        delta(
            json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}),
        )
    }

    #[test]
    fn interleaved_calls_are_put_together_by_index() {
        let reply = reply(&[
            call(Some(0), Some("a"), Some("shell"), "{\"com"),
            call(Some(1), Some("b"), Some("code"), ""),
            call(Some(0), None, None, "mand\":\"ls\"}"),
            call(Some(1), None, None, "{}"),
            finish("tool_calls"),
        ]);
        let found: Vec<_> = reply
            .tool_calls
            .iter()
            .map(|c| (c.id.as_str(), c.name.as_str(), c.input.clone()))
            .collect();
        assert_eq!(
            found,
            vec![("a", "shell", json!({"command": "ls"})), ("b", "code", json!({}))]
        );
        assert_eq!(reply.stop, StopReason::ToolUse);
    }

    #[test]
    fn calls_with_the_same_or_no_index_are_told_apart() {
        for index in [Some(0), None] {
            let reply = reply(&[
                call(index, Some("a"), Some("shell"), "{}"),
                call(index, Some("b"), Some("code"), "{}"),
                finish("stop"),
            ]);
            assert_eq!(reply.tool_calls.len(), 2, "{index:?}");
            assert_eq!(reply.stop, StopReason::ToolUse);
        }
        let reply = reply(&[
            call(None, None, Some("shell"), "{"),
            call(None, None, None, "}"),
            call(None, None, Some("code"), "{}"),
            finish("stop"),
        ]);
        let ids: Vec<_> = reply.tool_calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!(ids, ["call_1_0", "call_1_1"]);
        assert_eq!(reply.tool_calls[0].input, json!({}));
    }

    #[test]
    fn a_call_cut_at_the_limit_is_dropped_and_the_stop_says_so() {
        let cut = [
            call(Some(0), Some("a"), Some("shell"), "{\"command\":\"rm"),
            finish("length"),
        ];
        let reply = reply(&cut);
        assert_eq!(
            (reply.stop, reply.tool_calls.is_empty()),
            (StopReason::Length, true)
        );
    }

    #[test]
    fn arguments_that_are_no_json_are_passed_on_as_text() {
        let reply = reply(&[
            call(Some(0), Some("a"), Some("shell"), "ls -l"),
            finish("tool_calls"),
        ]);
        assert_eq!(reply.tool_calls[0].input, json!("ls -l"));
    }

    #[test]
    fn usage_comes_after_the_stop_reason() {
        let usage = json!({"choices": [], "model": "m-1", "usage": {"prompt_tokens": 5, "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}}});
        let found = reply(&[delta(json!({"content": "hi"})), finish("stop"), usage]);
        assert_eq!((found.usage.input_tokens, found.usage.output_tokens), (5, 2));
        let details = (found.usage.cached_tokens, found.usage.reasoning_tokens);
        assert_eq!(details, (4, 1));
        assert_eq!((found.model.as_str(), found.text.as_deref()), ("m-1", Some("hi")));
        assert!(reply(&[finish("stop")]).usage.is_estimated);
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        for error in [
            json!({"error": {"message": "boom", "type": "server_error"}}),
            json!({"object": "error", "message": "boom"}),
        ] {
            let failed = assemble(&[delta(json!({"content": "hi"})), error]);
            assert!(matches!(failed, Err(ModelError::Transient { .. })));
        }
        let empty = Assembly::default().finish(&sample::request(), "m");
        assert!(matches!(empty, Err(ModelError::Transient { .. })));
    }

    #[test]
    fn a_reply_given_at_once_is_understood() {
        let mut assembly = Assembly::default();
        let message =
            json!({"content": "hi", "tool_calls": [{"id": "a", "function": {"name": "x", "arguments": {}}}]});
        let whole = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
        assembly.take_whole(&whole).unwrap();
        let reply = assembly.finish(&sample::request(), "m").unwrap();
        assert_eq!((reply.text.as_deref(), reply.tool_calls.len()), (Some("hi"), 1));
    }
}
