//! The fast path of stop: a signal on the control channel, answered by a look into Postgres. A lost signal costs one
//! renewal of the leases at most, which looks at the same flags.

use crate::held::HeldRuns;
use crate::log::with_sources;
use domain::ids::{RunId, WorkerId};
use queue::{Control, ControlSignal};
use runs::{Leases, RenewalStatus};
use std::convert::Infallible;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Looks at held runs when told to.
#[derive(Debug)]
pub struct Obey {
    pub control: Control,
    pub leases: Leases,
    pub worker: WorkerId,
    pub held: HeldRuns,
    pub lease: Duration,
}

impl Obey {
    /// Listens until `soft` and the last held run are gone, or `stop` fires.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let signal = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                signal = self.control.next() => signal,
            };
            let wanted = match signal {
                ControlSignal::Run(run_id) => Some(run_id),
                ControlSignal::Dirty => None,
            };
            self.look_at(wanted).await;
        }
    }

    /// Stops the running step of runs that have ended or are held elsewhere.
    async fn look_at(&self, wanted: Option<RunId>) {
        let held = self.held.all().into_iter();
        let claims: Vec<(RunId, i64)> = held
            .filter(|(run_id, _)| wanted.is_none_or(|wanted| wanted == *run_id))
            .filter_map(|(run_id, hold)| Some((run_id, hold.epoch?)))
            .collect();
        match self.leases.renew(&self.worker, &claims, self.lease).await {
            Ok(renewals) => {
                for renewal in renewals {
                    match renewal.status {
                        RenewalStatus::Held {
                            cancelled: false,
                            paused: false,
                        } => {}
                        RenewalStatus::Held {
                            cancelled: false,
                            paused: true,
                        } => self.held.pause(renewal.run_id),
                        RenewalStatus::Held { cancelled: true, .. } | RenewalStatus::Lost => {
                            tracing::info!(run_id = %renewal.run_id, "run was stopped, ending its running step");
                            self.held.cancel(renewal.run_id);
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(error = %with_sources(&error), "stop signal not checked"),
        }
    }
}
