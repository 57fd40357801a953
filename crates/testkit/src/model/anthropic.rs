//! Anthropic messages: streamed events and error bodies.

use serde_json::{Value, json};

use super::answer::{Fault, Reply, Usage, half, pieces};
use super::openai::Context;

const PIECE: usize = 9;

/// The events of a stream, each with its blank line; a connection that is to be closed ends without `message_stop`.
pub(super) fn events(reply: &Reply, usage: Usage, context: &Context) -> Vec<String> {
    let mut stream = Stream {
        events: Vec::new(),
        index: 0,
    };
    stream.send(json!({"type": "message_start", "message": {
        "id": format!("msg_{}", context.number), "type": "message", "role": "assistant", "model": context.model,
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": usage.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 1, "service_tier": "standard"},
    }}));
    let cut = reply.fault != Fault::None;
    let orderly = matches!(reply.fault, Fault::None | Fault::Length);
    if let Some(text) = &reply.text {
        let last = reply.calls.is_empty();
        let text = pieces(text, PIECE);
        stream.start(json!({"type": "text", "text": ""}));
        for piece in if cut && last { half(&text) } else { text } {
            stream.delta(json!({"type": "text_delta", "text": piece}));
        }
        stream.stop(orderly || !last);
    }
    for (place, (name, arguments)) in reply.calls.iter().enumerate() {
        let last = place + 1 == reply.calls.len();
        let id = format!("toolu_{}_{place}", context.number);
        stream.start(json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
        stream.delta(json!({"type": "input_json_delta", "partial_json": ""}));
        let arguments = arguments.to_string();
        let arguments = pieces(&arguments, PIECE);
        for piece in if cut && last { half(&arguments) } else { arguments } {
            stream.delta(json!({"type": "input_json_delta", "partial_json": piece}));
        }
        stream.stop(orderly || !last);
    }
    let reason = match reply.fault {
        Fault::Closed => return stream.events,
        Fault::Error => {
            stream.send(
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            );
            return stream.events;
        }
        Fault::Length => "max_tokens",
        Fault::None if reply.calls.is_empty() => "end_turn",
        Fault::None => "tool_use",
    };
    stream.send(
        json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null},
        "usage": {"output_tokens": usage.output}}),
    );
    stream.send(json!({"type": "message_stop"}));
    stream.events
}

struct Stream {
    events: Vec<String>,
    index: usize,
}

impl Stream {
    fn send(&mut self, data: Value) {
        let name = data["type"].as_str().expect("every event has a type");
        self.events.push(format!("event: {name}\ndata: {data}\n\n"));
    }

    fn start(&mut self, block: Value) {
        self.send(json!({"type": "content_block_start", "index": self.index, "content_block": block}));
        if self.index == 0 {
            self.send(json!({"type": "ping"}));
        }
    }

    fn delta(&mut self, delta: Value) {
        self.send(json!({"type": "content_block_delta", "index": self.index, "delta": delta}));
    }

    fn stop(&mut self, orderly: bool) {
        if orderly {
            self.send(json!({"type": "content_block_stop", "index": self.index}));
        }
        self.index += 1;
    }
}

pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_testkit"})
}
