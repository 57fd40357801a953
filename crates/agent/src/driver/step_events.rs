//! What the sandbox of a running step tells: that it waits for room, and what the program prints.
//!
//! A step that waits has not begun: a pause or a shutdown ends the wait at once and leaves the step pending, and the time is
//! counted from the moment there was room.

use super::{Outcome, refused};
use crate::ports::{OutputPiece, RunLog, SandboxError, SandboxEvents};
use domain::Clock;
use domain::change::Change;
use domain::ids::StepId;
use jiff::Timestamp;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The ears of one call.
pub(super) struct StepEvents<'a, L> {
    log: &'a L,
    clock: &'a dyn Clock,
    step_id: StepId,
    waits: watch::Sender<bool>,
    /// When the step began, by our clock.
    begun: Mutex<Timestamp>,
    /// Why the call ended early: a change was not taken, or the wait was ended.
    ended: Mutex<Option<Outcome>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a, L: RunLog> StepEvents<'a, L> {
    pub(super) fn new(log: &'a L, clock: &'a dyn Clock, step_id: StepId) -> Self {
        Self {
            log,
            clock,
            step_id,
            waits: watch::Sender::new(false),
            begun: Mutex::new(clock.now()),
            ended: Mutex::default(),
        }
    }

    /// Milliseconds since the step began; a wait for room is not counted.
    pub(super) fn duration_ms(&self) -> i64 {
        let begun = *locked(&self.begun);
        self.clock.now().duration_since(begun).as_millis() as i64
    }

    /// Why the call ended early, when it did.
    pub(super) fn ending(&self) -> Option<Outcome> {
        locked(&self.ended).take()
    }

    /// Returns when one of the tokens fires while the step waits.
    pub(super) async fn end_of_wait(&self, pause: &CancellationToken, soft: &CancellationToken) -> Outcome {
        let mut waits = self.waits.subscribe();
        loop {
            // The sender lives as long as we do.
            if waits.wait_for(|waits| *waits).await.is_err() {
                return std::future::pending().await;
            }
            tokio::select! {
                biased;
                _ = waits.wait_for(|waits| !*waits) => {}
                () = pause.cancelled() => return Outcome::Paused,
                () = soft.cancelled() => return Outcome::HandedBack,
            }
        }
    }

    async fn commit(&self, change: Change) -> Result<(), SandboxError> {
        let committed = self.log.commit(vec![change]).await;
        committed.map_err(|error| self.end(refused(error)))
    }

    /// Notes why the call ends early.
    pub(super) fn end(&self, outcome: Outcome) -> SandboxError {
        *locked(&self.ended) = Some(outcome);
        SandboxError::Cancelled
    }
}

impl<L: RunLog> SandboxEvents for StepEvents<'_, L> {
    async fn waiting(&self) -> Result<(), SandboxError> {
        let step_id = self.step_id;
        self.commit(Change::StepWaiting { step_id }).await?;
        self.waits.send_replace(true);
        Ok(())
    }

    async fn admitted(&self) -> Result<(), SandboxError> {
        let step_id = self.step_id;
        self.waits.send_replace(false);
        self.commit(Change::StepAdmitted { step_id }).await?;
        *locked(&self.begun) = self.clock.now();
        // The wait may have been long.
        if self.log.is_held() {
            Ok(())
        } else {
            Err(self.end(Outcome::LeaseLost))
        }
    }

    fn output(&self, piece: OutputPiece) {
        self.log.show(self.step_id, piece);
    }

    async fn has_ended(&self) -> bool {
        self.log.has_ended().await
    }

    fn traceparent(&self) -> Option<String> {
        self.log.traceparent()
    }
}
