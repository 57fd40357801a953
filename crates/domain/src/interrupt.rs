//! Interrupts: what a run asks a person before it goes on, and what was answered.
//!
//! Invariants:
//! - An interrupt's id is derived from the place that asks, so asking again after a lost worker is the same interrupt.
//! - It is bound to the hash of the exact call; an approval of another call is none.
//! - It is decided once. The same word again is answered as before, another one is refused.
//! - Only a person opens the way: nothing a model writes can decide one.

use crate::canonical::payload_hash;
use crate::ids::{InterruptId, MessageId, StepId};
use crate::plan::Plan;
use crate::policy::Labels;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Longest shown input of a call, in characters.
const MAX_SHOWN: usize = 2000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptKind {
    /// Whether a tool call may be made.
    Tool,
    /// Whether the plan may be carried out.
    Plan,
    /// Something only the user knows.
    Question,
}

impl InterruptKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Plan => "plan",
            Self::Question => "question",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Tool, Self::Plan, Self::Question]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// Where an interrupt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptStatus {
    Open,
    Resolved,
    /// Nobody decided in time; counts as rejected.
    Expired,
    /// The run went on or ended without an answer.
    Cancelled,
}

impl InterruptStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Open, Self::Resolved, Self::Expired, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// What a person may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptDecision {
    Approve,
    /// Approved with another input.
    Edit,
    Reject,
    Answer,
}

impl InterruptDecision {
    pub const ALL: [Self; 4] = [Self::Approve, Self::Edit, Self::Reject, Self::Answer];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Edit => "edit",
            Self::Reject => "reject",
            Self::Answer => "answer",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| decision.as_str() == name)
    }

    /// A question is answered, everything else is approved, edited or rejected.
    pub fn fits(self, kind: InterruptKind) -> bool {
        (self == Self::Answer) == (kind == InterruptKind::Question)
    }
}

/// A decision with what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub enum InterruptVerdict {
    Approve,
    /// The input to call the tool with.
    Edit(Value),
    /// The plan to carry out; already validated.
    EditPlan(Plan),
    Reject {
        reason: Option<String>,
    },
    Answer {
        text: String,
        message_id: MessageId,
    },
}

impl InterruptVerdict {
    pub const fn decision(&self) -> InterruptDecision {
        match self {
            Self::Approve => InterruptDecision::Approve,
            Self::Edit(_) | Self::EditPlan(_) => InterruptDecision::Edit,
            Self::Reject { .. } => InterruptDecision::Reject,
            Self::Answer { .. } => InterruptDecision::Answer,
        }
    }

    /// As it is stored.
    pub fn response(&self) -> Value {
        match self {
            Self::Approve => json!({}),
            Self::Edit(input) => json!({"input": input}),
            Self::EditPlan(plan) => json!({"input": plan}),
            Self::Reject { reason } => json!({"reason": reason}),
            Self::Answer { text, .. } => json!({"text": text}),
        }
    }
}

/// An interrupt to store as open.
#[derive(Debug, Clone, PartialEq)]
pub struct NewInterrupt {
    pub id: InterruptId,
    pub kind: InterruptKind,
    /// The place that asks; turn 0 is the plan's.
    pub turn: u32,
    pub action: u32,
    /// The step the call will be.
    pub step_id: Option<StepId>,
    pub tool_name: Option<String>,
    pub tool_input: Option<Value>,
    pub hash: Option<String>,
    pub labels: Labels,
    /// For people; invisible characters are made visible.
    pub message: String,
    /// Why it is asked.
    pub reason: String,
    pub response_schema: Value,
    pub expires_at: Option<Timestamp>,
}

/// An open interrupt, as the state machine needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenInterrupt {
    pub id: InterruptId,
    pub kind: InterruptKind,
    pub tool_name: Option<String>,
    pub expires_at: Option<Timestamp>,
}

impl OpenInterrupt {
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// An interrupt as the driver of a run finds it after it was decided (or not).
#[derive(Debug, Clone, PartialEq)]
pub struct KnownInterrupt {
    pub id: InterruptId,
    pub kind: InterruptKind,
    pub turn: u32,
    pub action: u32,
    pub hash: Option<String>,
    pub status: InterruptStatus,
    pub decision: Option<InterruptDecision>,
    pub response: Value,
}

impl KnownInterrupt {
    fn text(&self, key: &str) -> Option<&str> {
        self.response.get(key).and_then(Value::as_str)
    }

    /// The input its user gave instead of the asked one.
    pub fn edited_input(&self) -> Option<&Value> {
        (self.decision == Some(InterruptDecision::Edit))
            .then(|| self.response.get("input"))
            .flatten()
    }

    /// What a question was answered with.
    pub fn answer(&self) -> Option<&str> {
        self.text("text")
    }

    /// Why it may not go on, when it may not.
    pub fn refusal(&self) -> Option<String> {
        match (self.status, self.decision) {
            (InterruptStatus::Expired, _) => Some("Approval expired".to_owned()),
            (InterruptStatus::Cancelled, _) => Some("Nobody decided about this call".to_owned()),
            (_, Some(InterruptDecision::Reject)) => Some(rejected(self.text("reason"))),
            _ => None,
        }
    }
}

fn rejected(reason: Option<&str>) -> String {
    match reason.map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("Rejected by the user: {reason}"),
        None => "Rejected by the user".to_owned(),
    }
}

/// The hash an approval is bound to: of the name and the exact input, and of what another system says of its tool.
pub fn call_hash(tool_name: &str, tool_input: &Value, pin: Option<&str>) -> String {
    let mut call = json!({"tool_name": tool_name, "tool_input": tool_input});
    if let Some(pin) = pin {
        call["tool_pin"] = json!(pin);
    }
    payload_hash(&call)
}

/// The sentence a person reads before deciding about a call.
pub fn ask_for_call(tool_name: &str, tool_input: &Value, reason: &str) -> String {
    let input = tool_input.to_string();
    let shown: String = input.chars().take(MAX_SHOWN).collect();
    let left_out = input.chars().count().saturating_sub(MAX_SHOWN);
    let rest = if left_out > 0 {
        format!("… ({left_out} more characters, see toolInput)")
    } else {
        String::new()
    };
    visible(&format!(
        "Allow {tool_name} with {shown}{rest}? Asked because {reason}."
    ))
}

/// The text with every character written out that is not seen or changes the direction of reading.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_hidden(letter) {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// Controls but line end and tab, marks of direction, joiners, fillers, variation selectors, tags, odd spaces.
const fn is_hidden(letter: char) -> bool {
    matches!(letter,
        '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}' | '\u{1160}' | '\u{1680}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{2800}' | '\u{3000}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// JSON Schema of the answer to a tool call's or a plan's interrupt.
pub fn approval_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "decision": {"type": "string", "enum": ["approve", "edit", "reject"]},
            "input": {"type": "object"},
            "reason": {"type": "string"},
        },
        "required": ["decision"],
    })
}

/// JSON Schema of the answer to a question; `options` or a schema of the answer narrow the text.
pub fn answer_schema(options: &[String], schema: Option<&Value>) -> Value {
    let mut text = json!({"type": "string"});
    if !options.is_empty() {
        text["enum"] = json!(options);
    }
    if let Some(schema) = schema {
        text["contentMediaType"] = json!("application/json");
        text["contentSchema"] = schema.clone();
    }
    json!({
        "type": "object",
        "properties": {"decision": {"type": "string", "const": "answer"}, "text": text},
        "required": ["decision", "text"],
    })
}

/// Whether a stored decision is the one that comes again.
pub fn is_same_decision(
    decision: Option<InterruptDecision>,
    response: &Value,
    again: &InterruptVerdict,
) -> bool {
    let given = again.response();
    let same =
        |key: &str| response.get(key).filter(|v| !v.is_null()) == given.get(key).filter(|v| !v.is_null());
    decision == Some(again.decision()) && same("input") && same("text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_written_out() {
        assert_eq!(
            visible("a\u{202e}b\u{200b}c\u{e0041}"),
            "a\\u{202e}b\\u{200b}c\\u{e0041}"
        );
        assert_eq!(visible("Zürich 東京\nok\t\u{1b}"), "Zürich 東京\nok\t\\u{1b}");
    }

    #[test]
    fn the_hash_is_of_name_and_input_and_of_nothing_else() {
        let hash = call_hash("shell", &json!({"a": 1, "b": 2}), None);
        assert_eq!(hash, call_hash("shell", &json!({"b": 2, "a": 1}), None));
        assert_ne!(hash, call_hash("shell", &json!({"a": 1, "b": 2}), Some("pin")));
        assert_ne!(hash, call_hash("code", &json!({"a": 1, "b": 2}), None));
        assert_ne!(hash, call_hash("shell", &json!({"a": 1, "b": 3}), None));
    }

    #[test]
    fn the_same_word_again_is_told_from_another_one() {
        let edit = InterruptVerdict::Edit(json!({"command": "ls"}));
        let stored = edit.response();
        let decision = Some(InterruptDecision::Edit);
        assert!(is_same_decision(decision, &stored, &edit));
        assert!(!is_same_decision(
            decision,
            &stored,
            &InterruptVerdict::Edit(json!({"command": "rm"}))
        ));
        assert!(!is_same_decision(decision, &stored, &InterruptVerdict::Approve));
        assert!(!is_same_decision(None, &Value::Null, &InterruptVerdict::Approve));
        let reject = |reason: Option<&str>| InterruptVerdict::Reject {
            reason: reason.map(str::to_owned),
        };
        let stored = reject(Some("no")).response();
        assert!(is_same_decision(
            Some(InterruptDecision::Reject),
            &stored,
            &reject(None)
        ));
    }
}
