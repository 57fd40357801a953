//! Requests and replies for the tests of this module.

use agent::ports::{ChatMessage, ModelReply, ModelRequest, Purpose, StopReason, ToolSpec, ToolUse};
use domain::{RunId, Usage};
use serde_json::json;

pub(super) fn request() -> ModelRequest {
    ModelRequest {
        run_id: RunId("7a5f0000-0000-4000-8000-000000000001".parse().unwrap()),
        purpose: Purpose::Turn { number: 1 },
        attempt: 1,
        prompt: "do it".into(),
        system: String::new(),
        messages: vec![ChatMessage::User("do it".into())],
        tools: vec![],
        max_tokens: 2048,
        temperature: 0.7,
    }
}

pub(super) fn conversation() -> Vec<ChatMessage> {
    vec![
        ChatMessage::User("list".into()),
        ChatMessage::Assistant {
            text: None,
            tool_calls: vec![ToolUse {
                id: "c1".into(),
                name: "shell".into(),
                input: json!({"command": "ls"}),
            }],
        },
        ChatMessage::ToolResult {
            call_id: "c1".into(),
            name: "shell".into(),
            content: "a.txt".into(),
            is_error: false,
        },
        ChatMessage::User("go on".into()),
        ChatMessage::Assistant {
            text: Some("done".into()),
            tool_calls: vec![],
        },
    ]
}

pub(super) fn tools() -> Vec<ToolSpec> {
    vec![ToolSpec {
        name: "shell".into(),
        description: "Runs a command".into(),
        input_schema: json!({"type": "object", "properties": {"command": {"type": "string"}}}),
    }]
}

pub(super) fn reply() -> ModelReply {
    ModelReply {
        text: Some("hi".into()),
        tool_calls: vec![],
        stop: StopReason::End,
        usage: Usage::default(),
        model: "m".into(),
        provider: "openai".into(),
    }
}
