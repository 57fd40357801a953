//! Loops and stalls: a run that repeats itself is first told so, then paused with the evidence.
//!
//! Computed from stored turns and results alone, compared by content (times and ids in a result do not count), so that a worker
//! that takes a run over counts the same. A detection starts the counts again: the first warns the model, another one within
//! [`FORGIVEN_AFTER`] turns pauses the run, and a run that was resumed starts from nothing.

use crate::snapshot::Snapshot;
use domain::action::{Action, ActionKind};
use domain::canonical::payload_hash;
use domain::waiting::{WaitKind, waiting};
use domain::{Change, Effect, NewEvent, RunStatus, Turn};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The same call with the same result, one after the other.
pub const SAME_ACTION: usize = 4;
/// The same error of the same tool among the last [`ERROR_WINDOW`] calls.
pub const SAME_ERROR: usize = 3;
/// The same, of a tool that changes something.
pub const SAME_ERROR_CHANGING: usize = 2;
pub const ERROR_WINDOW: usize = 10;
/// Turns in a row that only say something.
pub const MONOLOGUE: usize = 3;
/// Two calls in turn, so many times each.
pub const PING_PONG: usize = 6;
/// A warning is forgotten when nothing was found for so many turns.
pub const FORGIVEN_AFTER: u32 = 24;
/// Once warned about an error, it takes as many again whatever the tool.
const AFTER_A_WARNING: usize = SAME_ERROR;
/// Bytes of a call's input in the evidence.
const EVIDENCE_BYTES: usize = 500;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// `same_action`, `same_error`, `monologue` or `ping_pong`.
    pub pattern: &'static str,
    pub evidence: Value,
    /// In words.
    pub text: String,
}

/// What follows from a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Fine,
    /// The model is told.
    Warn(Finding),
    /// A person has to look.
    Pause(Finding),
}

/// A call as far as repetitions go.
#[derive(Debug, Clone)]
struct Deed {
    turn: u32,
    /// Tool, input and result.
    whole: u64,
    /// Tool and error, when it failed.
    error: Option<u64>,
    changing: bool,
    tool: String,
    input: String,
    outcome: String,
}

/// The counts of one run.
#[derive(Debug, Clone, Default)]
pub struct Stalls {
    deeds: VecDeque<Deed>,
    monologue: usize,
    warned_at: Option<u32>,
}

impl Stalls {
    /// Takes in a turn that has ended. `effect_of` tells what kind of effect a call has.
    pub fn take_in(
        &mut self,
        snapshot: &Snapshot,
        turn: &Turn,
        effect_of: impl Fn(&Action) -> Effect,
    ) -> Verdict {
        if self.warned_at.is_some_and(|at| turn.number > at + FORGIVEN_AFTER) {
            self.warned_at = None;
        }
        let only_says = |action: &Action| {
            action.kind == ActionKind::Message || action.tool_name.as_deref() == Some("message")
        };
        let monologue = !turn.actions.is_empty() && turn.actions.iter().all(only_says);
        self.monologue = if monologue { self.monologue + 1 } else { 0 };
        let tools = (0u32..)
            .zip(&turn.actions)
            .filter(|(_, action)| action.kind == ActionKind::Tool);
        for (index, action) in tools.filter(|(_, action)| !only_says(action)) {
            if let Some(deed) = deed(snapshot, (turn.number, index), action, effect_of(action)) {
                self.deeds.push_back(deed);
            }
        }
        while self.deeds.len() > 2 * PING_PONG {
            self.deeds.pop_front();
        }
        match self.find(turn.number) {
            None => Verdict::Fine,
            Some(finding) => self.judge(turn.number, finding),
        }
    }

    fn judge(&mut self, turn: u32, finding: Finding) -> Verdict {
        self.deeds.clear();
        self.monologue = 0;
        if self.warned_at.take().is_some() {
            return Verdict::Pause(finding);
        }
        self.warned_at = Some(turn);
        Verdict::Warn(finding)
    }

    fn find(&self, turn: u32) -> Option<Finding> {
        self.same_action()
            .or_else(|| self.same_error())
            .or_else(|| self.ping_pong())
            .or_else(|| self.says_only(turn))
    }

    fn same_action(&self) -> Option<Finding> {
        let last = self.deeds.back()?;
        let alike: Vec<&Deed> = self
            .deeds
            .iter()
            .rev()
            .take_while(|deed| deed.whole == last.whole)
            .collect();
        let text = format!(
            "{} was called {} times in a row with the same input and the same result",
            last.tool,
            alike.len()
        );
        (alike.len() >= SAME_ACTION).then(|| finding("same_action", text, &alike))
    }

    fn same_error(&self) -> Option<Finding> {
        let last = self.deeds.back()?;
        let error = last.error?;
        let recent = self.deeds.iter().rev().take(ERROR_WINDOW);
        let alike: Vec<&Deed> = recent.filter(|deed| deed.error == Some(error)).collect();
        let enough = match (self.warned_at, last.changing) {
            (Some(_), _) => AFTER_A_WARNING,
            (None, true) => SAME_ERROR_CHANGING,
            (None, false) => SAME_ERROR,
        };
        let text = format!("{} failed {} times with the same error", last.tool, alike.len());
        (alike.len() >= enough).then(|| finding("same_error", text, &alike))
    }

    fn ping_pong(&self) -> Option<Finding> {
        let newest: Vec<&Deed> = self.deeds.iter().rev().take(2 * PING_PONG).collect();
        if newest.len() < 2 * PING_PONG || newest[0].whole == newest[1].whole {
            return None;
        }
        let alternate = newest
            .iter()
            .zip(newest.iter().skip(2))
            .all(|(one, other)| one.whole == other.whole);
        let text = format!(
            "{} and {} took turns {PING_PONG} times with the same results",
            newest[1].tool, newest[0].tool
        );
        alternate.then(|| finding("ping_pong", text, &newest[..2]))
    }

    fn says_only(&self, turn: u32) -> Option<Finding> {
        (self.monologue >= MONOLOGUE).then(|| Finding {
            pattern: "monologue",
            evidence: json!({"pattern": "monologue", "count": self.monologue, "turns": [turn]}),
            text: format!(
                "the last {} turns only said something and did nothing",
                self.monologue
            ),
        })
    }
}

fn finding(pattern: &'static str, text: String, alike: &[&Deed]) -> Finding {
    let turns: Vec<u32> = alike.iter().rev().map(|deed| deed.turn).collect();
    let mut calls: Vec<Value> = vec![];
    for deed in alike.iter().rev() {
        let call = json!({"tool_name": deed.tool, "tool_input": deed.input, "outcome": deed.outcome});
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    let evidence = json!({"pattern": pattern, "count": alike.len(), "turns": turns, "calls": calls});
    Finding {
        pattern,
        evidence,
        text,
    }
}

fn deed(snapshot: &Snapshot, (turn, index): (u32, u32), action: &Action, effect: Effect) -> Option<Deed> {
    let result = snapshot.step(turn, index)?.result.as_ref()?;
    let tool = action.tool_name.clone()?;
    let input = action.tool_input.as_ref().unwrap_or(&Value::Null);
    let mut seen = DefaultHasher::new();
    (&tool, &result.error).hash(&mut seen);
    hash(&result.output, &mut seen);
    let error = (!result.success).then(|| seen.finish());
    payload_hash(input).hash(&mut seen);
    let cut = |text: &str| crate::conversation::cut_middle(text, EVIDENCE_BYTES);
    Some(Deed {
        turn,
        whole: seen.finish(),
        error,
        changing: effect != Effect::Pure,
        input: cut(&input.to_string()),
        outcome: cut(result.error.as_deref().unwrap_or("success")),
        tool,
    })
}

/// A result by its content: times, durations and ids are different in every answer and say nothing. An input is what it is: the
/// same call for another id is another call.
fn hash(value: &Value, into: &mut DefaultHasher) {
    match value {
        Value::Object(members) => {
            let volatile = |name: &str| {
                ["_ms", "_at", "_id", "duration"]
                    .iter()
                    .any(|end| name.ends_with(end))
                    || name == "id"
                    || name == "date"
            };
            for (name, value) in members.iter().filter(|(name, _)| !volatile(name)) {
                name.hash(into);
                hash(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| hash(item, into)),
        other => other.to_string().hash(into),
    }
}

impl Finding {
    /// What the model is told behind the turn.
    pub fn note(&self) -> String {
        format!(
            "Note of the runtime: {}. Doing it again will not help. Try something else, or ask with request_input; \
             if it goes on like this the run is paused.",
            self.text
        )
    }

    /// The event beside the note.
    pub fn warning(&self) -> NewEvent {
        let metadata = json!({"event": "loop_warning", "pattern": self.pattern, "evidence": self.evidence});
        NewEvent::warning(format!("The model was warned of a loop: {}", self.text), metadata)
    }

    /// The run stops and says why; it goes on when it is resumed.
    pub fn pause(&self) -> Vec<Change> {
        let metadata = json!({"event": "loop_paused", "pattern": self.pattern, "evidence": self.evidence});
        let text = format!("Paused, the model repeats itself after a warning: {}", self.text);
        let detail = format!(
            "paused for a loop: {}; send the action resume, with a hint if you have one",
            self.text
        );
        let mut waiting_for = waiting(WaitKind::User, &detail);
        waiting_for["evidence"] = self.evidence.clone();
        vec![
            Change::Log(NewEvent::warning(text, metadata)),
            Change::Waiting(Some(waiting_for)),
            Change::Status {
                to: RunStatus::Paused,
                error: None,
            },
        ]
    }
}
