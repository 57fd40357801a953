//! The form of a request that two runs of the same conversation share.

use agent::ports::{ChatMessage, ModelRequest};
use domain::canonical;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Length of a UUID in text (characters).
const UUID_LENGTH: usize = 36;
/// Length of `2026-11-20T17:00:00`.
const TIME_LENGTH: usize = 19;

/// Names given to changing values, in order of appearance.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn of(&mut self, kind: &str, value: &str) -> String {
        let next = self.0.len() + 1;
        self.0
            .entry(value.to_owned())
            .or_insert_with(|| format!("{kind}-{next}"))
            .clone()
    }
}

/// The normalised request.
pub(super) fn request(request: &ModelRequest) -> Value {
    let mut names = Names::default();
    let system = text(&request.system, &mut names);
    let messages: Vec<Value> = request.messages.iter().map(|m| message(m, &mut names)).collect();
    let tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}))
        .collect();
    json!({
        "system": system,
        "messages": messages,
        "tools": tools,
        "max_tokens": request.max_tokens,
        "temperature": crate::model::temperature(request),
    })
}

/// Lower-case hex SHA-256 of the canonical text: the name of the file.
pub(super) fn hash(request: &Value) -> String {
    let hash = canonical::payload_hash(request);
    hash.trim_start_matches("sha256:").to_owned()
}

fn message(message: &ChatMessage, names: &mut Names) -> Value {
    match message {
        ChatMessage::User(said) => json!({"role": "user", "text": text(said, names)}),
        ChatMessage::Assistant {
            text: said,
            tool_calls,
        } => {
            let calls: Vec<Value> = tool_calls
                .iter()
                .map(|call| {
                    let id = names.of("call", &call.id);
                    json!({"id": id, "name": call.name, "input": value(&call.input, names)})
                })
                .collect();
            let said = said.as_deref().map(|said| text(said, names));
            json!({"role": "assistant", "text": said, "tool_calls": calls})
        }
        ChatMessage::ToolResult {
            call_id,
            name,
            content,
            is_error,
        } => {
            let id = names.of("call", call_id);
            let content = match serde_json::from_str::<Value>(content) {
                Ok(document) => value(&document, names),
                Err(_) => json!(text(content, names)),
            };
            json!({"role": "tool", "call_id": id, "name": name, "content": content, "is_error": is_error})
        }
    }
}

fn value(document: &Value, names: &mut Names) -> Value {
    match document {
        Value::String(said) => Value::String(text(said, names)),
        Value::Array(items) => items.iter().map(|item| value(item, names)).collect(),
        Value::Object(members) => {
            let member = |(key, member): (&String, &Value)| {
                let is_duration = key.ends_with("_ms") && member.is_number();
                let member = if is_duration {
                    json!(0)
                } else {
                    value(member, names)
                };
                (key.clone(), member)
            };
            Value::Object(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// Replaces UUIDs and RFC 3339 times.
fn text(given: &str, names: &mut Names) -> String {
    let mut out = String::with_capacity(given.len());
    let mut rest = given;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = if is_uuid(rest) {
            ("uuid", UUID_LENGTH)
        } else {
            ("time", time_length(rest))
        };
        if length > 0 {
            out.push_str(&names.of(kind, &rest[..length]));
            rest = &rest[length..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn is_uuid(text: &str) -> bool {
    text.len() >= UUID_LENGTH
        && text.as_bytes()[..UUID_LENGTH]
            .iter()
            .enumerate()
            .all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
}

/// Length of the time the text begins with, its fraction and zone included; 0 when it begins with none.
fn time_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let begins = bytes.len() > TIME_LENGTH
        && bytes[..TIME_LENGTH]
            .iter()
            .enumerate()
            .all(|(at, byte)| match at {
                4 | 7 => *byte == b'-',
                10 => matches!(byte, b'T' | b' '),
                13 | 16 => *byte == b':',
                _ => byte.is_ascii_digit(),
            });
    if !begins {
        return 0;
    }
    let mut end = TIME_LENGTH;
    if bytes[end] == b'.' {
        end += 1;
        end += bytes[end..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
    }
    match bytes.get(end) {
        Some(b'Z') => end + 1,
        Some(b'+' | b'-') if text.len() >= end + 6 && text.is_char_boundary(end + 6) => end + 6,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;

    fn request_with(id: &str, result: &str, system: &str) -> ModelRequest {
        let mut request = sample::request();
        request.system = system.into();
        request.messages = vec![ChatMessage::ToolResult {
            call_id: id.into(),
            name: "shell".into(),
            content: result.into(),
            is_error: false,
        }];
        request
    }

    fn hash_of(given: &ModelRequest) -> String {
        hash(&request(given))
    }

    #[test]
    fn ids_times_and_durations_do_not_change_the_hash() {
        let first = request_with(
            "call_1",
            r#"{"at":"2026-11-20T17:00:00.123Z","execution_time_ms":5,"x":1}"#,
            "run 7a5f0000-0000-4000-8000-000000000001, é",
        );
        let mut second = request_with(
            "toolu_9",
            r#"{"at":"2027-01-01T00:00:00+01:00","execution_time_ms":9,"x":1}"#,
            "run 00000000-aaaa-4000-8000-00000000000f, é",
        );
        second.attempt = 3;
        assert_eq!(hash_of(&first), hash_of(&second));
        assert_eq!(hash_of(&first).len(), 64);
    }

    #[test]
    fn anything_said_changes_the_hash() {
        let base = request_with("a", r#"{"x":1}"#, "s");
        for other in [
            request_with("a", r#"{"x":2}"#, "s"),
            request_with("a", r#"{"x":1}"#, "t"),
        ] {
            assert_ne!(hash_of(&base), hash_of(&other));
        }
        let mut other = base.clone();
        other.max_tokens += 1;
        assert_ne!(hash_of(&base), hash_of(&other));
    }

    #[test]
    fn the_same_id_keeps_its_name_and_different_ids_differ() {
        let id = "7a5f0000-0000-4000-8000-000000000001";
        let other = "7a5f0000-0000-4000-8000-000000000002";
        let mut names = Names::default();
        let found = text(&format!("{id} {other} {id} 2026-11-20"), &mut names);
        assert_eq!(found, "uuid-1 uuid-2 uuid-1 2026-11-20");
    }
}
