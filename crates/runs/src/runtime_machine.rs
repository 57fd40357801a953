//! The state machine of runs driven from outside (`/internal/v1`), as a pure table.
//!
//! | from | Start | RequestCancel | FinishSucceeded | FinishFailed | FinishCanceled | other |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | created | running | canceling | succeeded | failed | canceled | appended |
//! | running | same | canceling | succeeded | failed | canceled | appended |
//! | canceling | 400 | same | 400 | failed | canceled | appended |
//! | ended | 409 | 409 | no-op when the same end, else 409 | likewise | likewise | 409 |

use serde_json::Value;

/// A run's state word on this surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Canceling,
    Succeeded,
    Failed,
    Canceled,
}

/// What an event asks of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Start,
    RequestCancel,
    FinishSucceeded,
    FinishFailed,
    FinishCanceled,
    /// Any other event type: changes no state.
    Other,
}

/// What comes of an allowed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The event is appended; the state afterwards.
    Append(State),
    /// Nothing is written.
    NoOp,
}

/// A refused event; the text is part of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Answered with 400.
    #[error("{0}")]
    Invalid(String),
    /// Answered with 409.
    #[error("{0}")]
    Conflict(String),
}

impl State {
    pub const ALL: [Self; 6] = [
        Self::Created,
        Self::Running,
        Self::Canceling,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Reads a state word; unknown words are `None`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

impl Transition {
    /// What an event of this type and payload asks for.
    pub fn of_event(event_type: &str, payload: &Value) -> Result<Self, Refusal> {
        match event_type {
            "run.started" => Ok(Self::Start),
            "run.cancel_requested" => Ok(Self::RequestCancel),
            "run.finished" => Self::of_finish(payload),
            _ => Ok(Self::Other),
        }
    }

    fn of_finish(payload: &Value) -> Result<Self, Refusal> {
        match payload.get("status").and_then(Value::as_str) {
            None => Err(Refusal::Invalid(
                "run.finished requires payload.status".to_owned(),
            )),
            Some("succeeded") => Ok(Self::FinishSucceeded),
            Some("failed") => Ok(Self::FinishFailed),
            Some("canceled" | "cancelled") => Ok(Self::FinishCanceled),
            Some(other) => Err(Refusal::Invalid(format!(
                "invalid run.finished payload.status: {other}"
            ))),
        }
    }

    /// The end this transition leads to, if it is one.
    pub const fn end(self) -> Option<State> {
        match self {
            Self::FinishSucceeded => Some(State::Succeeded),
            Self::FinishFailed => Some(State::Failed),
            Self::FinishCanceled => Some(State::Canceled),
            Self::Start | Self::RequestCancel | Self::Other => None,
        }
    }
}

/// The table.
pub fn step(from: State, transition: Transition) -> Result<Outcome, Refusal> {
    let illegal = || format!("invalid run transition: {from:?} -> {transition:?}");
    if from.is_final() {
        return match transition {
            Transition::Other => Err(Refusal::Conflict(format!("run is terminal: {}", from.as_str()))),
            same if same.end() == Some(from) => Ok(Outcome::NoOp),
            _ => Err(Refusal::Conflict(illegal())),
        };
    }
    match (from, transition) {
        (State::Canceling, Transition::Start | Transition::FinishSucceeded) => {
            Err(Refusal::Invalid(illegal()))
        }
        (_, Transition::Start) => Ok(Outcome::Append(State::Running)),
        (_, Transition::RequestCancel) => Ok(Outcome::Append(State::Canceling)),
        (_, Transition::Other) => Ok(Outcome::Append(from)),
        (_, finish) => Ok(Outcome::Append(finish.end().unwrap_or(from))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One letter per cell: the state's initial (`g` for canceling, `x` for canceled), `0` no-op, `4` 400, `9` 409.
    fn cell(from: State, transition: Transition) -> char {
        match step(from, transition) {
            Ok(Outcome::NoOp) => '0',
            Ok(Outcome::Append(State::Canceling)) => 'g',
            Ok(Outcome::Append(State::Canceled)) => 'x',
            Ok(Outcome::Append(to)) => to.as_str().chars().next().unwrap(),
            Err(Refusal::Invalid(_)) => '4',
            Err(Refusal::Conflict(_)) => '9',
        }
    }

    #[test]
    fn every_pair_is_answered_as_the_table_says() {
        use Transition as T;
        let columns = [
            T::Start,
            T::RequestCancel,
            T::FinishSucceeded,
            T::FinishFailed,
            T::FinishCanceled,
            T::Other,
        ];
        let table: Vec<String> = State::ALL
            .into_iter()
            .map(|from| columns.into_iter().map(|column| cell(from, column)).collect())
            .collect();
        assert_eq!(
            table,
            ["rgsfxc", "rgsfxr", "4g4fxg", "990999", "999099", "999909"]
        );
    }

    #[test]
    fn texts_are_those_of_the_contract() {
        let refused = |from, transition| step(from, transition).unwrap_err().to_string();
        assert_eq!(
            refused(State::Succeeded, Transition::RequestCancel),
            "invalid run transition: Succeeded -> RequestCancel"
        );
        assert_eq!(
            refused(State::Canceled, Transition::Other),
            "run is terminal: canceled"
        );
        let finish = |payload| {
            Transition::of_event("run.finished", &payload)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            finish(json!({"status": 5})),
            "run.finished requires payload.status"
        );
        assert_eq!(
            finish(json!({"status": "done"})),
            "invalid run.finished payload.status: done"
        );
        let cancelled = Transition::of_event("run.finished", &json!({"status": "cancelled"}));
        assert_eq!(cancelled, Ok(Transition::FinishCanceled));
    }
}
