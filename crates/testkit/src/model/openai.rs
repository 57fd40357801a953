//! OpenAI chat completions: streamed chunks and error bodies.

use serde_json::{Value, json};

use super::answer::{Fault, Reply, Usage, half, pieces};

/// What the stream needs to know of its request.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) model: String,
    pub(super) include_usage: bool,
    /// Unique per answer; part of all ids.
    pub(super) number: u64,
}

const PIECE: usize = 7;

/// The events of a stream, each with its blank line; a connection that is to be closed ends without `[DONE]`.
pub(super) fn events(reply: &Reply, usage: Usage, context: &Context) -> Vec<String> {
    let mut stream = Stream {
        context,
        events: Vec::new(),
    };
    stream.delta(
        json!({"role": "assistant", "content": if reply.calls.is_empty() { json!("") } else { Value::Null }}),
    );
    let cut = reply.fault != Fault::None;
    if let Some(text) = &reply.text {
        let text = pieces(text, PIECE);
        let text = if cut && reply.calls.is_empty() {
            half(&text)
        } else {
            text
        };
        for piece in text {
            stream.delta(json!({"content": piece}));
        }
    }
    for (index, (name, arguments)) in reply.calls.iter().enumerate() {
        let id = format!("call_{}_{index}", context.number);
        stream.delta(
            json!({"tool_calls": [{"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": ""}}]}),
        );
        let arguments = arguments.to_string();
        let arguments = pieces(&arguments, PIECE);
        let last = index + 1 == reply.calls.len();
        for piece in if cut && last { half(&arguments) } else { arguments } {
            stream.delta(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}));
        }
    }
    match reply.fault {
        Fault::Closed => return stream.events,
        Fault::Error => {
            stream.data(&json!({"error": {"message": "The server had an error while processing your request. Sorry about that!",
                "type": "server_error", "param": null, "code": null}}));
            return stream.events;
        }
        Fault::Length => stream.finish("length"),
        Fault::None if reply.calls.is_empty() => stream.finish("stop"),
        Fault::None => stream.finish("tool_calls"),
    }
    stream.end(usage);
    stream.events
}

struct Stream<'a> {
    context: &'a Context,
    events: Vec<String>,
}

impl Stream<'_> {
    fn data(&mut self, data: &Value) {
        self.events.push(format!("data: {data}\n\n"));
    }

    fn chunk(&mut self, choices: Value, usage: Value) {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", self.context.number),
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": self.context.model,
            "service_tier": "default",
            "system_fingerprint": "fp_testkit",
            "choices": choices,
        });
        if self.context.include_usage {
            chunk["usage"] = usage;
        }
        self.data(&chunk);
    }

    fn delta(&mut self, delta: Value) {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
        self.chunk(json!([choice]), Value::Null);
    }

    fn finish(&mut self, reason: &str) {
        let choice = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": reason});
        self.chunk(json!([choice]), Value::Null);
    }

    fn end(&mut self, usage: Usage) {
        if self.context.include_usage {
            let usage = json!({
                "prompt_tokens": usage.input,
                "completion_tokens": usage.output,
                "total_tokens": usage.input + usage.output,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            });
            self.chunk(json!([]), usage);
        }
        self.events.push("data: [DONE]\n\n".to_owned());
    }
}

pub(super) fn error(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        400 | 404 => ("invalid_request_error", Value::Null),
        401 => ("invalid_request_error", json!("invalid_api_key")),
        429 => ("requests", json!("rate_limit_exceeded")),
        _ => ("server_error", Value::Null),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
