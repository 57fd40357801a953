//! From a model's reply to a turn: native tool calls first, else bare or fenced JSON.
//!
//! Three pseudo tools steer the run: `phase_complete`, `task_complete` and `request_input`.
//!
//! A turn is what the store will give back of it, see [`domain::storable`]: a drive that goes on with a fresh turn and one that
//! goes on after a take-over see the same. A call whose input the store cannot hold as it is carries its refusal with it.

use crate::ports::{ModelReply, StopReason};
use crate::tools::unstorable;
use domain::Storable as _;
use domain::action::{Action, ActionKind, Turn};
use serde_json::{Value, json};

/// Names of the pseudo tools.
pub const PHASE_COMPLETE: &str = "phase_complete";
pub const TASK_COMPLETE: &str = "task_complete";
pub const REQUEST_INPUT: &str = "request_input";

/// Understands a reply. A turn without actions has its `fault` set; the text goes back to the model.
pub fn turn(number: u32, reply: &ModelReply) -> Turn {
    let calls: Vec<Value> = reply
        .tool_calls
        .iter()
        .map(|call| json!({"id": call.id, "name": call.name, "input": call.input}))
        .collect();
    let raw = json!({"text": reply.text, "tool_calls": calls});
    let (mut actions, fault) = match actions(reply) {
        Ok(actions) => (actions, None),
        Err(fault) => (vec![], Some(fault)),
    };
    for action in &mut actions {
        action.refused = refusal(action);
    }
    let turn = Turn {
        number,
        actions,
        raw,
        fault,
    };
    turn.storable()
}

fn refusal(action: &Action) -> Option<String> {
    if action.kind != ActionKind::Tool {
        return None;
    }
    unstorable(action.tool_name.as_deref()?, action.tool_input.as_ref()?)
}

fn actions(reply: &ModelReply) -> Result<Vec<Action>, String> {
    if reply.stop == StopReason::Length {
        return Err("the reply was cut at the token limit; answer more briefly".to_owned());
    }
    if reply.tool_calls.is_empty() {
        return from_text(reply.text.as_deref().unwrap_or_default());
    }
    let said = reply
        .text
        .as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let mut actions: Vec<Action> = reply
        .tool_calls
        .iter()
        .map(|call| native(&call.id, &call.name, &call.input))
        .collect::<Result<_, _>>()?;
    if let Some(first) = actions.first_mut() {
        first.reasoning = said.map(str::to_owned);
    }
    Ok(actions)
}

fn native(id: &str, name: &str, input: &Value) -> Result<Action, String> {
    let text = |key: &str| input.get(key).and_then(Value::as_str).map(str::to_owned);
    let action = |kind, message: Option<String>| Action {
        kind,
        tool_name: None,
        tool_input: None,
        message,
        reasoning: None,
        call_id: Some(id.to_owned()),
        refused: None,
    };
    Ok(match name {
        PHASE_COMPLETE => action(ActionKind::PhaseComplete, text("summary")),
        TASK_COMPLETE => action(ActionKind::TaskComplete, text("summary")),
        REQUEST_INPUT => {
            let question = text("question")
                .or_else(|| text("message"))
                .filter(|text| !text.trim().is_empty());
            let question = question.ok_or("request_input needs a question")?;
            action(ActionKind::RequestInput, Some(question))
        }
        tool => Action {
            tool_name: Some(tool.to_owned()),
            tool_input: Some(input.clone()),
            ..action(ActionKind::Tool, None)
        },
    })
}

fn from_text(text: &str) -> Result<Vec<Action>, String> {
    let value = json_in(text).ok_or("the reply holds no tool call and no JSON action")?;
    let list = match value {
        Value::Array(items) => items,
        Value::Object(mut map) if map.get("actions").is_some_and(Value::is_array) => {
            match map.remove("actions") {
                Some(Value::Array(items)) => items,
                _ => vec![],
            }
        }
        other => vec![other],
    };
    if list.is_empty() {
        return Err("the reply holds no action".to_owned());
    }
    list.into_iter().map(one_action).collect()
}

fn one_action(value: Value) -> Result<Action, String> {
    let action: Action =
        serde_json::from_value(value).map_err(|fault| format!("not a valid action: {fault}"))?;
    let blank = |text: &Option<String>| text.as_deref().is_none_or(|text| text.trim().is_empty());
    match action.kind {
        ActionKind::Tool if blank(&action.tool_name) => {
            Err("an action of type tool needs a tool_name".to_owned())
        }
        ActionKind::Message | ActionKind::RequestInput if blank(&action.message) => {
            Err("the action needs a message".to_owned())
        }
        _ => Ok(action),
    }
}

/// The JSON of a reply: the whole text, the first fenced block, or what stands between the outermost braces. What the model
/// thought aloud before it is passed over.
pub fn json_in(text: &str) -> Option<Value> {
    let trimmed = without_thinking(text).trim();
    let parsed = |part: &str| {
        serde_json::from_str::<Value>(part.trim())
            .ok()
            .filter(|v| v.is_object() || v.is_array())
    };
    parsed(trimmed)
        .or_else(|| fenced(trimmed).and_then(parsed))
        .or_else(|| {
            let (start, end) = (trimmed.find('{')?, trimmed.rfind('}')?);
            parsed(trimmed.get(start..=end)?)
        })
}

/// The text behind its leading blocks `<think>…</think>` or `<thinking>…</thinking>`. A block that is not closed stays.
fn without_thinking(text: &str) -> &str {
    let mut rest = text.trim_start();
    while let Some(after) = ["think", "thinking"].iter().find_map(|name| behind(rest, name)) {
        rest = after.trim_start();
    }
    rest
}

fn behind<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    // ASCII only: byte places are the same in both.
    let lower = text.to_ascii_lowercase();
    let close = format!("</{name}>");
    lower.starts_with(&format!("<{name}>")).then_some(())?;
    let end = lower.find(&close)? + close.len();
    text.get(end..)
}

fn fenced(text: &str) -> Option<&str> {
    let rest = text.split_once("```")?.1;
    let body = rest.split_once('\n').map_or(rest, |(_, body)| body);
    body.split_once("```").map(|(body, _)| body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ToolUse;
    use domain::Usage;

    fn reply(text: Option<&str>, tool_calls: Vec<ToolUse>) -> ModelReply {
        ModelReply {
            text: text.map(str::to_owned),
            tool_calls,
            stop: StopReason::End,
            usage: Usage::default(),
            model: "m".into(),
            provider: "p".into(),
        }
    }

    #[test]
    fn native_calls_become_actions_and_text_beside_them_is_reasoning() {
        let calls = vec![
            ToolUse {
                id: "1".into(),
                name: "shell".into(),
                input: json!({"command": "ls"}),
            },
            ToolUse {
                id: "2".into(),
                name: TASK_COMPLETE.into(),
                input: json!({}),
            },
        ];
        let turn = turn(3, &reply(Some("I look first"), calls));
        assert_eq!(turn.actions.len(), 2);
        assert_eq!(turn.actions[0].reasoning.as_deref(), Some("I look first"));
        assert_eq!(turn.actions[0].call_id.as_deref(), Some("1"));
        assert_eq!(turn.actions[1].kind, ActionKind::TaskComplete);
    }

    #[test]
    fn bare_fenced_and_embedded_json_are_understood() {
        let action = r#"{"type":"tool","tool_name":"shell","tool_input":{"command":"ls"}}"#;
        for text in [
            action.to_owned(),
            format!("```json\n{action}\n```"),
            format!("I will do this: {action} now"),
            format!("[{action}]"),
            format!(r#"{{"actions":[{action}]}}"#),
        ] {
            let turn = turn(1, &reply(Some(&text), vec![]));
            assert_eq!(turn.actions.len(), 1, "{text}: {:?}", turn.fault);
            assert_eq!(turn.actions[0].tool_name.as_deref(), Some("shell"));
        }
    }

    #[test]
    fn what_is_no_action_says_why() {
        for text in [
            "",
            "hello",
            "{}",
            r#"{"type":"dance"}"#,
            r#"{"type":"tool"}"#,
            r#"{"type":"message"}"#,
            "[]",
        ] {
            let turn = turn(1, &reply(Some(text), vec![]));
            assert!(turn.actions.is_empty() && turn.fault.is_some(), "{text}");
        }
        let cut = ModelReply {
            stop: StopReason::Length,
            ..reply(Some("{}"), vec![])
        };
        assert!(turn(1, &cut).fault.unwrap().contains("cut"));
    }

    #[test]
    fn leading_thoughts_are_passed_over_whatever_braces_they_hold() {
        let action = r#"{"type":"tool","tool_name":"shell","tool_input":{"command":"echo '<think>'"}}"#;
        for text in [
            format!("<think>hmm {{x}}</think>{action}"),
            format!("\n<THINKING>\n{{\"type\":\"message\"}}\n</thinking>\n\n```json\n{action}\n```"),
            format!("<think></think>\n<think>é {{</think> {action}"),
        ] {
            let turn = turn(1, &reply(Some(&text), vec![]));
            assert_eq!(turn.fault, None, "{text}");
            assert_eq!(
                turn.actions[0].tool_input,
                Some(json!({"command": "echo '<think>'"}))
            );
            assert_eq!(turn.raw["text"], text, "the reply is kept whole");
        }
        let open = turn(1, &reply(Some("<think>never closed {x}"), vec![]));
        assert!(open.fault.is_some());
    }

    #[test]
    fn a_call_whose_input_cannot_be_stored_carries_its_refusal_and_nothing_of_a_turn_holds_a_zero_character()
    {
        let call = |name: &str, input: Value| ToolUse {
            id: "i\0".into(),
            name: name.into(),
            input,
        };
        let calls = vec![
            call("file_write", json!({"filepath": "a\0b", "content": "x\0"})),
            call("file_write", json!({"filepath": "a", "content": "x\0"})),
            call("shell", json!({"command": "ls", "en\0v": {"a": 1}})),
            call("shell", json!({"command": "ls \u{fffd}"})),
            call("request_input", json!({"question": "a\0?"})),
        ];
        let turn = turn(1, &reply(Some("look\0"), calls));
        let refused: Vec<Option<&str>> = turn
            .actions
            .iter()
            .map(|action| action.refused.as_deref())
            .collect();
        assert_eq!(refused[0], Some("Invalid path: a\u{fffd}b"));
        assert!(
            refused[1]
                .unwrap()
                .starts_with("Invalid input: content holds U+0000")
        );
        assert!(
            refused[2]
                .unwrap()
                .starts_with("Invalid input: en\u{fffd}v holds U+0000")
        );
        assert_eq!(refused[3..], [None, None]);
        let stored = serde_json::to_value(&turn).unwrap();
        assert!(!domain::storable::holds_nul(&stored), "{stored}");
        let again: Turn = serde_json::from_value(stored).unwrap();
        assert_eq!(again, turn, "a take-over knows the same");
    }

    #[test]
    fn a_model_cannot_say_itself_that_a_call_is_refused() {
        let text = r#"{"type":"tool","tool_name":"shell","tool_input":{"command":"ls"},"refused":"no"}"#;
        assert_eq!(turn(1, &reply(Some(text), vec![])).actions[0].refused, None);
    }
}
