//! What is looked after between two turns: the size of the model's view, and whether the run repeats itself.

use super::{Driver, Flow, Outcome};
use crate::context::Window;
use crate::conversation::TURN_SYSTEM;
use crate::ports::{ChatMessage, Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::snapshot::Snapshot;
use crate::stalls::{Stalls, Verdict};
use domain::{Change, NewEvent};

/// Follows a run turn by turn.
#[derive(Debug)]
pub(super) struct Care {
    window: Window,
    stalls: Stalls,
    /// Turns taken in.
    seen: usize,
    /// What the last turn gave to log; it goes into the commit of the next, so that it is logged once.
    events: Vec<NewEvent>,
    /// What is stored was taken in: from now on a loop pauses the run. One found before did so already.
    is_live: bool,
}

impl Care {
    /// The messages of the next turn.
    pub(super) fn messages(&self, snapshot: &Snapshot) -> Vec<ChatMessage> {
        let plan = snapshot.plan.as_ref();
        plan.map(|plan| self.window.messages(snapshot, plan))
            .unwrap_or_default()
    }

    /// What is to be logged with the next turn.
    pub(super) fn events(&mut self) -> Vec<Change> {
        self.events.drain(..).map(Change::Log).collect()
    }
}

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    pub(super) fn care(&self) -> Care {
        Care {
            window: Window::new(self.limits.context_tokens, TURN_SYSTEM, &self.tools.specs()),
            stalls: Stalls::default(),
            seen: 0,
            events: vec![],
            is_live: false,
        }
    }

    /// Takes in the turns that have ended since; pauses the run when it repeats itself in spite of a warning.
    pub(super) async fn look_after(&self, snapshot: &Snapshot, care: &mut Care) -> Flow<()> {
        while let Some(turn) = snapshot.turns.get(care.seen) {
            care.events.clear();
            let verdict = if self.limits.detect_stalls {
                care.stalls
                    .take_in(snapshot, turn, |action| self.effect_of_action(action))
            } else {
                Verdict::Fine
            };
            let note = match &verdict {
                Verdict::Warn(finding) => {
                    care.events.push(finding.warning());
                    Some(finding.note())
                }
                Verdict::Fine | Verdict::Pause(_) => None,
            };
            care.events.extend(care.window.take_in(snapshot, care.seen, note));
            care.seen += 1;
            if let Verdict::Pause(finding) = verdict
                && care.is_live
            {
                self.commit(finding.pause()).await?;
                // That commit has let go of run and job.
                return Err(Outcome::Waiting);
            }
        }
        care.is_live = true;
        Ok(())
    }
}
