//! Receipt and replay of a stored run. Events are read page by page: a run of any length needs the memory of one.

use super::view::{Pages, RuntimeRun, load_run};
use super::{RuntimeError, RuntimeRuns};
use domain::ids::RunId;
use domain::recording::{Trajectory, replay_ending, replay_event, replay_opening};
use jiff::Timestamp;
use serde_json::Value;

impl RuntimeRuns {
    /// The receipt; the same bytes as long as nothing is appended.
    pub async fn receipt(&self, run_id: RunId) -> Result<Value, RuntimeError> {
        let run = load_run(&self.db, run_id).await?.ok_or(RuntimeError::NotFound)?;
        let mut pages = Pages::of(&self.db, &run);
        let mut trajectory = Trajectory::default();
        loop {
            let events = pages.next().await?;
            if events.is_empty() {
                break;
            }
            for event in &events {
                trajectory.add(&event.recorded());
            }
        }
        Ok(trajectory.receipt(&run.session(&run_id.to_string())))
    }

    /// The replay's lines, to be taken piece by piece.
    pub async fn replay(&self, run_id: RunId) -> Result<Replay, RuntimeError> {
        let run = load_run(&self.db, run_id).await?.ok_or(RuntimeError::NotFound)?;
        Ok(Replay {
            pages: Pages::of(&self.db, &run),
            last_at: run.created_at,
            run,
            next: Part::Opening,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Opening,
    Events,
    Nothing,
}

/// A replay in the making.
#[derive(Debug)]
pub struct Replay {
    run: RuntimeRun,
    pages: Pages,
    /// Time of the last event seen.
    last_at: Timestamp,
    next: Part,
}

impl Replay {
    /// The next whole lines; nothing after the last.
    pub async fn lines(&mut self) -> Result<Option<String>, RuntimeError> {
        let id = self.run.id.to_string();
        match self.next {
            Part::Nothing => return Ok(None),
            Part::Opening => {
                self.next = Part::Events;
                return Ok(Some(replay_opening(&self.run.session(&id))));
            }
            Part::Events => {}
        }
        let events = self.pages.next().await?;
        let session = self.run.session(&id);
        let Some(last) = events.last() else {
            self.next = Part::Nothing;
            return Ok(Some(replay_ending(&session, &self.run.status, self.last_at)));
        };
        self.last_at = last.recorded_at;
        let lines = events
            .iter()
            .map(|event| replay_event(&session, &event.recorded()));
        Ok(Some(lines.collect()))
    }
}
