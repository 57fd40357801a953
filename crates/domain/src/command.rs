//! What may be asked of a run. Users' commands come from the API, workers' carry the epoch of their claim.

use crate::change::Change;
use crate::ids::{JobId, MessageId, WorkerId};

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
    Retry { after_ms: i64, error: String },
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
