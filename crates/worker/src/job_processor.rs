//! One job: claim the run in Postgres, load it, drive it, settle the job.
//!
//! The Redis claim gives the job, the Postgres claim gives the epoch that fences every write. Whatever happens between
//! the two is safe: without the second nothing is written, and the lease of the first runs out.

use crate::counting::AnyRemote;
use crate::figures::LeaseAction;
use crate::held::{HeldRuns, Hold, HoldGuard};
use crate::live::Live;
use crate::log::{Announcer, FencedLog, with_sources};
use crate::model::WithRetries;
use crate::remote::Remote;
use crate::sandbox::AnySandbox;
use crate::settle::Settle;
use crate::snapshot::{Brought, GateRules, to_snapshot};
use crate::workspace::{RunFiles, Workspaces};
use agent::driver::{Driver, OnUnknown, Outcome};
use agent::ports::Model as _;
use agent::purse::Purse;
use agent::supervisor::Limits;
use agent::tools::Router;
use domain::command::Expiry;
use domain::decide::Rejection;
use domain::ids::{RunId, WorkerId};
use domain::{Clock, LogType, NewEvent, Redactor};
use queue::{BuryReason, Delivery, Queue};
use runs::{Budgets, Claimed, CommandError, Credits, Orchestration, Sweep};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tools::{OfRun, Tools};
use tracing::Instrument as _;

/// Beyond the length of a lease: a worker that is gone has lost the run by then. One that is still there renews its lease,
/// and puts the run's entry back if it has to.
const HELD_MARGIN: Duration = Duration::from_secs(1);
/// How long a run that comes again waits for its last drive here to end.
const HELD_PATIENCE: Duration = Duration::from_secs(4);
const HELD_PAUSE: Duration = Duration::from_millis(50);
const LAST_DRIVE_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a job goes back when Postgres cannot be asked.
const STORE_AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Everything a job needs; shared by all jobs of the process.
#[derive(Debug)]
pub struct JobProcessor {
    pub worker: WorkerId,
    pub orchestration: Orchestration,
    /// Asked before each turn; none while credits are not enforced.
    pub credits: Option<Credits>,
    pub budgets: Budgets,
    pub sweep: Sweep,
    pub queue: Queue,
    pub held: HeldRuns,
    pub model: WithRetries,
    pub workspaces: Workspaces,
    pub sandbox: AnySandbox,
    pub tools: Tools,
    pub counting: AnyRemote,
    pub gate: GateRules,
    pub clock: Arc<dyn Clock>,
    pub redactor: Arc<Redactor>,
    pub rules: JobRules,
}

/// The limits of a job.
#[derive(Debug, Clone, Copy)]
pub struct JobRules {
    pub lease: Duration,
    pub max_crashes: u32,
    pub backoff: crate::backoff::Backoff,
    pub limits: Limits,
    pub on_unknown: OnUnknown,
}

impl JobProcessor {
    /// Works a delivery to its end. `soft`: hand back between steps; `hard`: hand back at once.
    pub async fn process(&self, delivery: Delivery, soft: CancellationToken, hard: CancellationToken) {
        let (cancel, pause) = (CancellationToken::new(), CancellationToken::new());
        let hold = Hold::new(delivery.claim(), cancel.clone(), pause.clone());
        let Some(_guard) = self.hold(&delivery, hold).await else {
            self.not_held(delivery).await;
            return;
        };
        let begun = Instant::now();
        crate::figures::count_delivery(&delivery);
        metrics::gauge!("agent_jobs_in_progress").increment(1.0);
        let in_progress = InProgress;
        let span = tracing::trace_span!(target: "traces", "runtime.job", otel.kind = "consumer",
            gen_ai.operation.name = "invoke_agent", run_id = %delivery.job.run_id, job_id = %delivery.job.job_id);
        bootstrap::traces::continued(&span, &delivery.job.traceparent);
        let tokens = Tokens {
            soft,
            hard,
            pause,
            cancel,
        };
        let status = self.claimed_and_driven(delivery, tokens).instrument(span).await;
        drop(in_progress);
        metrics::counter!("agent_jobs_processed_total", "status" => status).increment(1);
        let seconds = begun.elapsed().as_secs_f64();
        metrics::histogram!("agent_job_duration_seconds").record(seconds);
        metrics::histogram!("runtime_executor_run_duration_seconds").record(seconds);
    }

    /// Takes the run into the list of those held here. A run may come again before its last drive here has ended: resumed under a
    /// new job, or put back a moment ago. That drive is waited for, it is only settling.
    async fn hold(&self, delivery: &Delivery, hold: Hold) -> Option<HoldGuard> {
        let run_id = delivery.job.run_id;
        let until = Instant::now() + HELD_PATIENCE;
        loop {
            if let Some(guard) = self.held.hold(run_id, hold.clone()) {
                return Some(guard);
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(LAST_DRIVE_PAUSE).await;
        }
    }

    /// The run is in work here all the same. A newer claim of the very job is renewed with the run from now on: settling it would
    /// take the run's only entry. Another job waits for its turn in the queue.
    async fn not_held(&self, delivery: Delivery) -> &'static str {
        let run_id = delivery.job.run_id;
        if self.held.job_of(run_id) != Some(delivery.job_id()) {
            return self.settle().hand_back(delivery).await;
        }
        let newer = delivery.claim();
        self.held.update(run_id, |hold| {
            if hold.claim.epoch < newer.epoch {
                hold.claim = newer;
            }
        });
        "held"
    }

    fn settle(&self) -> Settle<'_> {
        Settle {
            orchestration: &self.orchestration,
            queue: &self.queue,
            backoff: self.rules.backoff,
            redactor: &self.redactor,
        }
    }

    async fn claimed_and_driven(&self, mut delivery: Delivery, tokens: Tokens) -> &'static str {
        let run_id = delivery.job.run_id;
        let claimed = match self.claim(&delivery).await {
            Ok(claimed) => claimed,
            Err(error) => {
                crate::figures::count_lease(LeaseAction::Claim, "error", 1);
                return self.not_claimed(delivery, error).await;
            }
        };
        let Claimed {
            epoch,
            committed,
            snapshot,
        } = claimed;
        let announcer = Announcer::new(self.queue.clone());
        crate::figures::count_claim(&committed.events);
        announcer.announce(committed.events).await;
        let run = &committed.run;
        self.held.update(run_id, |hold| hold.epoch = Some(epoch));
        if delivery.deliveries.max(run.crash_count) > self.rules.max_crashes {
            return self
                .settle()
                .expire(delivery, Expiry::Poison, "its workers died")
                .await;
        }
        if run.retry_count > run.max_retries {
            return self
                .settle()
                .expire(delivery, Expiry::MaxAttempts, "worker lost")
                .await;
        }
        self.show_attempt(&mut delivery, run.retry_count).await;
        tracing::info!(run_id = %run_id, job_id = %delivery.job.job_id, epoch,
            attempt = run.retry_count + 1, "run claimed");
        let wanted_files = snapshot.wanted_files;
        let funds = snapshot.funds;
        let mcp_servers = snapshot.mcp_servers.clone();
        let snapshot = to_snapshot(snapshot, run.retry_count + 1, &self.gate);
        let traceparent = delivery.job.traceparent.clone();
        let outcome = self
            .drive(
                (snapshot, wanted_files, funds, mcp_servers),
                (epoch, &announcer, &traceparent),
                &tokens,
            )
            .await;
        announcer.finish().await;
        tracing::info!(run_id = %run_id, outcome = ?outcome, "drive ended");
        self.settle().outcome(delivery, epoch, outcome).await
    }

    /// A take-over counts an attempt in Postgres; the entry in `jobs:processing` shows the same.
    async fn show_attempt(&self, delivery: &mut Delivery, retry_count: u32) {
        if delivery.job.retry_count == retry_count {
            return;
        }
        delivery.job.retry_count = retry_count;
        delivery.job.attempt = retry_count + 1;
        if let Err(error) = delivery.rewrite().await {
            tracing::debug!(error = %with_sources(&error), "attempt not shown in the queue entry");
        }
        self.held.update(delivery.job.run_id, |hold| {
            hold.claim.raw.clone_from(&delivery.raw);
        });
    }

    /// A lease of another worker that is still alive in Postgres is waited for, as long as it can last. This is the run's own
    /// entry (others are told apart as duplicates): let go while that worker is gone, it would leave the run in no list
    /// until the reconciler meets it.
    async fn claim(&self, delivery: &Delivery) -> Result<Claimed, CommandError> {
        let until = Instant::now() + self.rules.lease + HELD_MARGIN;
        let job = &delivery.job;
        loop {
            let claimed = self
                .orchestration
                .claim(job.run_id, &self.worker, job, self.rules.lease)
                .await;
            match claimed {
                Err(CommandError::Rejected(Rejection::Held(_))) if Instant::now() < until => {
                    tokio::time::sleep(HELD_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn not_claimed(&self, delivery: Delivery, error: CommandError) -> &'static str {
        let (run_id, job_id) = (delivery.job.run_id, delivery.job.job_id);
        tracing::info!(run_id = %run_id, job_id = %job_id, reason = %error, "job not taken");
        match error {
            CommandError::NotFound => {
                self.settle()
                    .bury(delivery, BuryReason::UnknownRun, "Run not found")
                    .await
            }
            CommandError::Unavailable(_) | CommandError::Database(_) => {
                tracing::warn!(run_id = %run_id, error = %with_sources(&error), "run store failed at the claim");
                tokio::time::sleep(STORE_AWAY_PAUSE).await;
                self.settle().hand_back(delivery).await
            }
            CommandError::Rejected(_)
            | CommandError::DuplicateJob
            | CommandError::Fenced
            | CommandError::IdempotencyConflict => {
                self.settle().drop_entry(delivery).await;
                "dropped"
            }
        }
    }

    fn live(&self, run_id: RunId) -> Live {
        let (queue, redactor) = (self.queue.clone(), self.redactor.clone());
        Live::new(queue, run_id, redactor, self.clock.clone())
    }

    async fn drive(
        &self,
        (snapshot, wanted_files, funds, servers): Brought,
        (epoch, announcer, traceparent): (i64, &Announcer, &str),
        tokens: &Tokens,
    ) -> Outcome {
        let run_id = snapshot.run_id;
        let live = self.live(run_id);
        let user_id = snapshot.user_id.clone();
        let log = FencedLog {
            orchestration: &self.orchestration,
            announcer,
            held: &self.held,
            run_id,
            epoch,
            lease: self.rules.lease,
            credits: self.credits.as_ref(),
            sweep: &self.sweep,
            live: &live,
            purse: funds.map(|funds| Purse::new(funds.budget, funds.spent, self.clock.now())),
            budgets: &self.budgets,
            user_id: &user_id,
            traceparent,
        };
        if let Some(outcome) = self.bring_files(wanted_files, &snapshot, &log, tokens).await {
            return outcome;
        }
        let workspace = RunFiles(self.workspaces.of_run(&snapshot.user_id, run_id));
        let of_run = OfRun {
            connector_ids: snapshot.connector_ids.clone(),
            workspace: workspace.clone(),
        };
        let known = (&self.tools, &self.counting);
        let remote = Remote::connect(known, of_run, servers.as_deref(), &tokens.cancel).await;
        let driver = Driver {
            model: &self.model,
            tools: Router {
                workspace: &workspace,
                sandbox: &self.sandbox,
                remote: &remote,
            },
            log: &log,
            clock: self.clock.as_ref(),
            limits: self.rules.limits,
            on_unknown: self.rules.on_unknown,
            epoch,
            withheld: Mutex::default(),
            soft: tokens.soft.clone(),
            pause: tokens.pause.clone(),
            cancel: tokens.cancel.clone(),
        };
        let drive = driver.drive(snapshot);
        tokio::pin!(drive);
        tokio::select! {
            outcome = &mut drive => outcome,
            () = tokens.hard.cancelled() => {
                // The running step is stopped; the run goes back as it was before it.
                tokens.cancel.cancel();
                match drive.await {
                    Outcome::LeaseLost => Outcome::HandedBack,
                    other => other,
                }
            }
        }
    }
}

/// The first line of a run's log says which model answers.
pub fn opening_line(model: &WithRetries) -> NewEvent {
    let (provider, name) = model.identity();
    let metadata = serde_json::json!({"event": "model", "provider": provider, "model": name});
    NewEvent::new(LogType::Info, model.describe(), metadata)
}

/// What stops a drive.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(crate) soft: CancellationToken,
    hard: CancellationToken,
    pause: CancellationToken,
    pub(crate) cancel: CancellationToken,
}

/// Counts a job down again however it ends.
struct InProgress;

impl Drop for InProgress {
    fn drop(&mut self) {
        metrics::gauge!("agent_jobs_in_progress").decrement(1.0);
    }
}
