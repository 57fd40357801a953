//! What may be asked of a run. Users' commands come from the API, workers' carry the epoch of their claim.

use crate::budget::Budget;
use crate::change::Change;
use crate::ids::{InterruptId, JobId, MessageId, StepId, WorkerId};
use crate::interrupt::InterruptVerdict;
use crate::waiting::RetryCause;
use jiff::Timestamp;
use serde_json::Value;

/// A command to one existing run. Creation is its own path, because there is no state to decide on.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Put a created run into the queue under this job id.
    Start { job_id: JobId },
    /// End the run wherever it stands (`stop`, `cancel`).
    Stop,
    /// Begin no further step and free the worker.
    Pause,
    /// Go on after `waiting_user` or `paused`, under a new job id.
    Resume {
        user_input: Option<(MessageId, String)>,
        job_id: JobId,
    },
    /// Say what became of a tool call whose outcome is unknown, and go on under a new job id.
    SettleEffect {
        step_id: StepId,
        verdict: Verdict,
        job_id: JobId,
    },
    /// Decide an open interrupt; after the last one the run goes on under a new job id.
    Decide {
        interrupt_id: InterruptId,
        verdict: InterruptVerdict,
        now: Timestamp,
        job_id: JobId,
    },
    /// Nobody decided in time.
    ExpireInterrupts { now: Timestamp, job_id: JobId },
    /// Set what the run may spend. `goes_on`: it is paused for want of room, and this budget has it; then it goes on under
    /// the job id.
    SetBudget {
        budget: Budget,
        goes_on: bool,
        job_id: JobId,
    },
    /// A worker takes the run; raises the epoch.
    Claim { worker: WorkerId, job_id: JobId },
    /// What a worker's work led to.
    Progress(Vec<Change>),
    /// A worker lets go: back to the queue, or aside until a retry.
    Release(Release),
    /// A limit of the platform ran out (deadline, waiting time, attempts).
    Expire(Expiry),
}

/// How a worker lets go of a run it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Shutdown: front of the line, attempt not used.
    HandBack,
    /// Transient failure: another attempt after this many milliseconds.
    Retry {
        after_ms: i64,
        error: String,
        cause: RetryCause,
    },
    /// The run waits, is paused or has ended; only the lease goes.
    Done,
}

/// Which limit ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// `AGENT_RUN_TIMEOUT_SECONDS` of working time.
    RunDeadline,
    /// `AGENT_WAITING_TIMEOUT_SECONDS` in `waiting_user`.
    WaitingForUser,
    /// Every attempt was used up.
    MaxAttempts,
    /// The job's workers died too often in a row.
    Poison,
}

/// What a tool call of unknown outcome is taken for.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub decision: EffectDecision,
    /// The result of a call that was done, for the model.
    pub output: Option<Value>,
    /// Why, for the log.
    pub note: Option<String>,
    /// The run's epoch when the question was seen (`waiting_for.epoch`): a word that comes late must not answer a later
    /// question. Nothing: whatever is asked now.
    pub epoch: Option<i64>,
}

/// The three ways on from an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectDecision {
    /// It took effect: the step is settled as completed.
    Done,
    /// It did not: the step is settled as failed, the model decides what next.
    NotDone,
    /// Call it again, with the same idempotency key.
    Retry,
}

impl EffectDecision {
    pub const ALL: [Self; 3] = [Self::Done, Self::NotDone, Self::Retry];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "not_done",
            Self::Retry => "retry",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| decision.as_str() == name)
    }
}
