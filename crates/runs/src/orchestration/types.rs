//! What goes into a command and what comes out of it.

use crate::restore::RunSnapshot;
use crate::store::{Fault, StoreError};
use domain::decide::Rejection;
use domain::event::Event;
use domain::ids::JobId;
use domain::job::Job;
use domain::run::RunState;
use serde_json::Value;
use std::time::Duration;

/// `Idempotency-Key` of a create or retry; valid for 24 h per user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 characters.
    pub key: String,
    /// SHA-256 of the request's body.
    pub request_hash: String,
}

/// What a commit led to, and what is left to do after it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The run after the commit.
    pub run: RunState,
    /// The new events, to be published in this order.
    pub events: Vec<Event>,
    /// Push it, then tell [`crate::Outbox::sent`].
    pub enqueue: Option<Job>,
    /// Take it out of whatever Redis list holds it.
    pub remove_job: Option<JobId>,
    /// After `Release::Retry`: the job of the next attempt, to be moved to the retry list by the worker.
    pub retry_job: Option<Job>,
}

/// The outcome of a create.
#[expect(
    clippy::large_enum_variant,
    reason = "made once per create and moved once or twice"
)]
#[derive(Debug, Clone)]
pub enum Created {
    New(Committed),
    /// The key was used before with the same body.
    Replayed {
        /// The answer stored then: `run_id`, `status`, `message`, `plan`.
        answer: Value,
    },
}

/// A worker holds the run.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// To be sent with every write of this claim.
    pub epoch: i64,
    pub committed: Committed,
    /// All that is stored of the run, as of the claim.
    pub snapshot: RunSnapshot,
}

/// Why a command changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Unknown, or somebody else's.
    #[error("run not found")]
    NotFound,
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Another claim has taken over, or this one was given back.
    #[error("the claim is stale")]
    Fenced,
    /// The run has another queue entry; this one is to be dropped.
    #[error("the job is a duplicate")]
    DuplicateJob,
    #[error("idempotency key was used with another body")]
    IdempotencyConflict,
    /// The same command may succeed later; its outcome may be unknown.
    #[error("run store is unavailable")]
    Unavailable(#[source] Fault),
    #[error("run store failed")]
    Database(#[source] Fault),
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(fault) => Self::Unavailable(fault),
            StoreError::Database(fault) => Self::Database(fault),
        }
    }
}

/// Limits the authority itself keeps.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// `AGENT_RUN_TIMEOUT_SECONDS`: working time from the first planning.
    pub run_timeout: Duration,
    /// `CREDITS_ENFORCED`: settled steps are charged to the user's balance.
    pub credits_enforced: bool,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            run_timeout: Duration::from_hours(1),
            credits_enforced: false,
        }
    }
}
