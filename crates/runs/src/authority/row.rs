//! The run row as the authority reads and writes it; texts and plans that only grow the row stay in Postgres.

use crate::store::StoreError;
use domain::ids::{JobId, RunId, UserId, WorkerId};
use domain::job::Job;
use domain::run::{Lease, Origin, RunState};
use domain::status::RunStatus;
use domain::waiting::unknown_step;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

/// Columns read for a command; `lease_alive` is judged by the database's clock after the lock was got.
macro_rules! run_columns {
    () => {
        "id, origin, user_id, status, current_phase, total_phases, last_seq, fencing_token, lease_owner, \
         coalesce(lease_expires_at > clock_timestamp(), false) AS lease_alive, job_id, priority, retry_count, \
         max_retries, crash_count, cancel_requested_at, traceparent, created_at, last_event_at, event_head_hash, \
         total_steps, completed_steps, failed_steps, total_tokens_used, \
         total_credits_used::float8 AS total_credits_used, plan_version, attempt, state_version, queued_at, \
         started_at, completed_at, paused_at, resumed_at, deadline_at, next_retry_at, error_message, error_code, \
         waiting_for"
    };
}
pub(crate) use run_columns;

/// When what happened; named as the columns are.
#[expect(clippy::struct_field_names, reason = "the columns' names")]
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    pub(crate) queued_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) paused_at: Option<Timestamp>,
    pub(crate) resumed_at: Option<Timestamp>,
    pub(crate) deadline_at: Option<Timestamp>,
    pub(crate) next_retry_at: Option<Timestamp>,
    pub(crate) cancel_requested_at: Option<Timestamp>,
}

/// What the run has used so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) total_steps: i32,
    pub(crate) completed_steps: i32,
    pub(crate) failed_steps: i32,
    pub(crate) tokens: i64,
    pub(crate) credits: f64,
    pub(crate) plan_version: i32,
    pub(crate) attempt: i32,
    pub(crate) state_version: i64,
}

/// What becomes of `lease_expires_at` at the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    Keep,
    /// This many milliseconds from the commit's statement, by the database's clock.
    In(i64),
}

#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) state: RunState,
    pub(crate) times: Times,
    pub(crate) counters: Counters,
    pub(crate) traceparent: String,
    pub(crate) created_at: Timestamp,
    pub(crate) last_event_at: Timestamp,
    pub(crate) head_hash: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) error_code: Option<String>,
    pub(crate) waiting_for: Option<Value>,
    pub(crate) lease_end: LeaseEnd,
}

/// A column by name, with the column in the error.
pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(StoreError::from)
}

fn count(row: &Row, name: &str) -> Result<u32, StoreError> {
    let value: i32 = column(row, name)?;
    u32::try_from(value).map_err(|_| StoreError::row(format!("{name} is negative")))
}

fn word<T>(row: &Row, name: &str, parse: fn(&str) -> Option<T>) -> Result<T, StoreError> {
    let text: &str = column(row, name)?;
    parse(text).ok_or_else(|| StoreError::row(format!("{name} holds an unknown word")))
}

/// The part of the row that the state machine reads.
pub(crate) fn state(row: &Row) -> Result<RunState, StoreError> {
    let owner: Option<String> = column(row, "lease_owner")?;
    let alive = column(row, "lease_alive")?;
    let waiting_for: Option<Value> = column(row, "waiting_for")?;
    Ok(RunState {
        id: RunId(column(row, "id")?),
        origin: word(row, "origin", Origin::parse)?,
        user_id: column::<Option<String>>(row, "user_id")?.map(UserId),
        status: word(row, "status", RunStatus::parse)?,
        current_phase: count(row, "current_phase")?,
        total_phases: count(row, "total_phases")?,
        last_seq: column(row, "last_seq")?,
        epoch: column(row, "fencing_token")?,
        lease: owner.map(|owner| Lease {
            owner: WorkerId(owner),
            alive,
        }),
        job_id: column::<Option<uuid::Uuid>>(row, "job_id")?.map(JobId),
        priority: count(row, "priority")? as u8,
        retry_count: count(row, "retry_count")?,
        max_retries: count(row, "max_retries")?,
        crash_count: count(row, "crash_count")?,
        cancel_requested: column::<Option<Timestamp>>(row, "cancel_requested_at")?.is_some(),
        unknown_step: waiting_for.as_ref().and_then(unknown_step),
        interrupts: vec![],
        last_error: column(row, "error_message")?,
    })
}

impl RunRow {
    pub(crate) fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            state: state(row)?,
            times: times(row)?,
            counters: counters(row)?,
            traceparent: column(row, "traceparent")?,
            created_at: column(row, "created_at")?,
            last_event_at: column(row, "last_event_at")?,
            head_hash: column(row, "event_head_hash")?,
            error_message: column(row, "error_message")?,
            error_code: column(row, "error_code")?,
            waiting_for: column(row, "waiting_for")?,
            lease_end: LeaseEnd::Keep,
        })
    }

    /// The queue entry of this run, the same text whenever it has to be pushed again.
    pub(crate) fn job(&self, job_id: JobId) -> Job {
        Job {
            job_id,
            run_id: self.state.id,
            attempt: self.state.retry_count + 1,
            retry_count: self.state.retry_count,
            priority: self.state.priority,
            enqueued_at: self
                .times
                .queued_at
                .max(self.times.resumed_at)
                .unwrap_or(self.created_at),
            traceparent: self.traceparent.clone(),
        }
    }
}

fn times(row: &Row) -> Result<Times, StoreError> {
    Ok(Times {
        queued_at: column(row, "queued_at")?,
        started_at: column(row, "started_at")?,
        completed_at: column(row, "completed_at")?,
        paused_at: column(row, "paused_at")?,
        resumed_at: column(row, "resumed_at")?,
        deadline_at: column(row, "deadline_at")?,
        next_retry_at: column(row, "next_retry_at")?,
        cancel_requested_at: column(row, "cancel_requested_at")?,
    })
}

fn counters(row: &Row) -> Result<Counters, StoreError> {
    Ok(Counters {
        total_steps: column(row, "total_steps")?,
        completed_steps: column(row, "completed_steps")?,
        failed_steps: column(row, "failed_steps")?,
        tokens: column(row, "total_tokens_used")?,
        credits: column(row, "total_credits_used")?,
        plan_version: column(row, "plan_version")?,
        attempt: column(row, "attempt")?,
        state_version: column(row, "state_version")?,
    })
}
