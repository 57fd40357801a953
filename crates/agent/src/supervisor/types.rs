//! What the machine says: what comes next, and what follows from a reply or a result.

use domain::action::Action;
use domain::{Change, RunStatus};
use serde::{Deserialize, Serialize};

/// A tool call that is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DueTool {
    pub turn: u32,
    /// Place in the turn, from 0.
    pub action: u32,
    pub phase: u32,
    pub call: Action,
}

/// What comes next.
#[expect(
    clippy::large_enum_variant,
    reason = "made once per step and moved once or twice"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    CallModel {
        turn: u32,
    },
    RunTool(DueTool),
    /// The run waits for its user.
    Wait,
    End(RunStatus),
}

/// What a reply or a result leads to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Applied {
    pub changes: Vec<Change>,
    /// The change of status at the end, with what belongs to it. Kept apart because a run that was paused meanwhile takes
    /// the rest but not this; it comes after the resume.
    pub ending: Vec<Change>,
}

impl Applied {
    pub(super) fn of(changes: Vec<Change>) -> Self {
        Self {
            changes,
            ending: vec![],
        }
    }

    pub(super) fn end(ending: Vec<Change>) -> Self {
        Self {
            changes: vec![],
            ending,
        }
    }

    pub(super) fn then(mut self, next: Self) -> Self {
        self.changes.extend(next.changes);
        self.ending.extend(next.ending);
        self
    }

    /// Everything, in order.
    pub fn all(self) -> Vec<Change> {
        self.changes.into_iter().chain(self.ending).collect()
    }
}
