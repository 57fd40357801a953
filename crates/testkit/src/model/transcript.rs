//! What must hold in every request: a well-formed call in which each tool result follows its call, in
//! order, exactly once, and each call has its result.

use std::collections::HashSet;

use serde_json::Value;

/// Faults of an OpenAI chat-completions body, as sentences; empty = fine.
pub(super) fn openai(body: &Value) -> Vec<String> {
    let mut faults = common(body);
    let tools = tool_names(&body["tools"], |tool| &tool["function"]["name"]);
    let mut check = Pairing::default();
    for (place, message) in messages(body).iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            check.result(message["tool_call_id"].as_str(), place);
            if !message["content"].is_string() && !message["content"].is_array() {
                check.fault(place, "a tool message without content");
            }
            continue;
        }
        check.closed(place);
        match role {
            "assistant" => openai_calls(message, place, &tools, &mut check),
            "system" | "developer" | "user" if !empty(&message["content"]) => {}
            "system" | "developer" | "user" => check.fault(place, "empty content"),
            _ => check.fault(place, &format!("unknown role {role:?}")),
        }
    }
    check.closed(messages(body).len());
    faults.append(&mut check.faults);
    faults
}

fn openai_calls(message: &Value, place: usize, tools: &HashSet<String>, check: &mut Pairing) {
    let calls = message["tool_calls"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if message["tool_calls"].is_array() && calls.is_empty() {
        check.fault(place, "tool_calls is an empty array");
    }
    if calls.is_empty() && empty(&message["content"]) {
        check.fault(place, "an assistant message with neither content nor tool calls");
    }
    for call in calls {
        check.call(call["id"].as_str(), place);
        check.name(call["function"]["name"].as_str(), tools, place);
        let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
        if !serde_json::from_str::<Value>(arguments).is_ok_and(|value| value.is_object()) {
            check.fault(place, &format!("arguments are no JSON object: {arguments:?}"));
        }
    }
}

/// Faults of an Anthropic messages body.
pub(super) fn anthropic(body: &Value) -> Vec<String> {
    let mut faults = common(body);
    if body["max_tokens"].as_u64().is_none_or(|count| count == 0) {
        faults.push("max_tokens is missing".to_owned());
    }
    let tools = tool_names(&body["tools"], |tool| &tool["name"]);
    let mut check = Pairing::default();
    if messages(body)
        .first()
        .is_some_and(|message| message["role"] != "user")
    {
        check.fault(0, "the first message is not from the user");
    }
    for (place, message) in messages(body).iter().enumerate() {
        let text = message["content"]
            .as_str()
            .map(|text| serde_json::json!([{"type": "text", "text": text}]));
        let content = text.as_ref().unwrap_or(&message["content"]);
        let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
        if blocks.is_empty() {
            check.fault(place, "empty content");
        }
        match message["role"].as_str() {
            Some("user") => blocks
                .iter()
                .for_each(|block| user_block(block, place, &mut check)),
            Some("assistant") => {
                check.closed(place);
                for block in blocks {
                    assistant_block(block, place, &tools, &mut check);
                }
            }
            _ => check.fault(place, "unknown role"),
        }
    }
    check.closed(messages(body).len());
    faults.append(&mut check.faults);
    faults
}

fn user_block(block: &Value, place: usize, check: &mut Pairing) {
    match block["type"].as_str() {
        Some("tool_result") => check.result(block["tool_use_id"].as_str(), place),
        Some("text") => {
            check.closed(place);
            blank_text(block, place, check);
        }
        _ => check.closed(place),
    }
}

fn assistant_block(block: &Value, place: usize, tools: &HashSet<String>, check: &mut Pairing) {
    match block["type"].as_str() {
        Some("tool_use") => {
            check.call(block["id"].as_str(), place);
            check.name(block["name"].as_str(), tools, place);
            if !block["input"].is_object() {
                check.fault(place, "the input of a tool_use is no object");
            }
        }
        Some("text") => blank_text(block, place, check),
        Some("thinking" | "redacted_thinking") => {}
        _ => check.fault(place, "unknown block type"),
    }
}

fn blank_text(block: &Value, place: usize, check: &mut Pairing) {
    if block["text"].as_str().is_none_or(|text| text.trim().is_empty()) {
        check.fault(place, "a text block without text");
    }
}

fn common(body: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if body["model"].as_str().is_none_or(str::is_empty) {
        faults.push("model is missing".to_owned());
    }
    if body["stream"] != true {
        faults.push("stream is not true".to_owned());
    }
    match messages(body).last() {
        None => faults.push("messages is missing or empty".to_owned()),
        Some(last) if last["role"] == "assistant" => {
            faults.push("the last message is the assistant's own".to_owned());
        }
        Some(_) => {}
    }
    faults
}

fn messages(body: &Value) -> &[Value] {
    body["messages"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn empty(content: &Value) -> bool {
    match content {
        Value::String(text) => text.is_empty(),
        Value::Array(parts) => parts.is_empty(),
        _ => true,
    }
}

fn tool_names(tools: &Value, name: impl Fn(&Value) -> &Value) -> HashSet<String> {
    let tools = tools.as_array().map(Vec::as_slice).unwrap_or_default();
    tools
        .iter()
        .filter_map(|tool| name(tool).as_str().map(str::to_owned))
        .collect()
}

/// Calls still without a result, in order, and all ids seen.
#[derive(Debug, Default)]
struct Pairing {
    open: Vec<String>,
    seen: HashSet<String>,
    faults: Vec<String>,
}

impl Pairing {
    fn fault(&mut self, place: usize, text: &str) {
        self.faults.push(format!("messages[{place}]: {text}"));
    }

    fn call(&mut self, id: Option<&str>, place: usize) {
        match id.filter(|id| !id.is_empty()) {
            None => self.fault(place, "a tool call without id"),
            Some(id) => {
                if !self.seen.insert(id.to_owned()) {
                    self.fault(place, &format!("tool call id {id} is used twice"));
                }
                self.open.push(id.to_owned());
            }
        }
    }

    fn name(&mut self, name: Option<&str>, tools: &HashSet<String>, place: usize) {
        let name = name.unwrap_or_default();
        let legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            self.fault(place, &format!("illegal tool name {name:?}"));
        } else if tools.is_empty() {
            self.fault(place, "tool calls in the transcript, but no tools in the request");
        }
    }

    fn result(&mut self, id: Option<&str>, place: usize) {
        let id = id.unwrap_or_default();
        match self.open.iter().position(|open| open == id) {
            None => self.fault(place, &format!("a tool result for {id:?}, which is no open call")),
            Some(at) => {
                if at > 0 {
                    self.fault(place, &format!("the tool result for {id} is out of order"));
                }
                self.open.remove(at);
            }
        }
    }

    /// Something else than a result comes: no call may be open.
    fn closed(&mut self, place: usize) {
        for id in std::mem::take(&mut self.open) {
            self.fault(place, &format!("tool call {id} has no result"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn openai_body(tail: &Value) -> Value {
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "shell", "arguments": "{}"}});
        let mut messages = vec![
            json!({"role": "user", "content": "go"}),
            json!({"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]}),
        ];
        messages.extend(tail.as_array().expect("a list").iter().cloned());
        json!({"model": "m", "stream": true, "messages": messages, "tools": [{"function": {"name": "shell"}}]})
    }

    fn result(id: &str) -> Value {
        json!({"role": "tool", "tool_call_id": id, "content": "ok"})
    }

    #[test]
    fn openai_results_must_pair_in_order() {
        assert_eq!(
            openai(&openai_body(&json!([result("a"), result("b")]))),
            Vec::<String>::new()
        );
        let wrong = |tail: Value| openai(&openai_body(&tail)).join("; ");
        assert!(wrong(json!([result("b"), result("a")])).contains("out of order"));
        assert!(wrong(json!([result("a")])).contains("tool call b has no result"));
        assert!(wrong(json!([result("a"), result("b"), result("b")])).contains("no open call"));
        assert!(
            wrong(json!([result("a"), {"role": "user", "content": "x"}, result("b")]))
                .contains("has no result")
        );
        assert!(wrong(json!([])).contains("assistant's own"));
    }

    #[test]
    fn anthropic_results_must_come_first_in_the_next_message() {
        let use_ = |id: &str| json!({"type": "tool_use", "id": id, "name": "shell", "input": {}});
        let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "ok"});
        let body = |blocks: Value| {
            json!({"model": "m", "stream": true, "max_tokens": 9, "tools": [{"name": "shell"}], "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "text", "text": "I"}, use_("a"), use_("b")]},
            {"role": "user", "content": blocks}]})
        };
        let text = json!({"type": "text", "text": "and"});
        assert_eq!(
            anthropic(&body(json!([result("a"), result("b"), text]))),
            Vec::<String>::new()
        );
        assert!(!anthropic(&body(json!([text, result("a"), result("b")]))).is_empty());
        assert!(!anthropic(&body(json!([result("a")]))).is_empty());
        assert!(!anthropic(&body(json!([result("a"), result("b"), result("c")]))).is_empty());
    }
}
