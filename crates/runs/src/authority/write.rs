//! The statements every commit has: the run row, and its events with their twins in one go.

use super::batch::LinkedEvent;
use super::row::{LeaseEnd, RunRow};
use crate::db::tx::{Param, Statement, params};
use domain::job::Job;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

/// `$2` is the `last_seq` that was read: a second lock besides the row's.
const UPDATE_RUN: &str = "UPDATE agent_runs SET
    status = $3, current_phase = $4, total_phases = $5, last_seq = $6, fencing_token = $7, lease_owner = $8,
    lease_expires_at = CASE WHEN $8::text IS NULL THEN NULL
        WHEN $9::bigint IS NULL THEN lease_expires_at
        ELSE clock_timestamp() + $9::bigint * interval '1 millisecond' END,
    job_id = $10, retry_count = $11, crash_count = $12, cancel_requested_at = $13, traceparent = $14,
    last_event_at = $15, event_head_hash = $16, total_steps = $17, completed_steps = $18, failed_steps = $19,
    total_tokens_used = $20, total_credits_used = $21::float8::numeric, plan_version = $22, attempt = $23,
    state_version = $24, queued_at = $25, started_at = $26, completed_at = $27, paused_at = $28,
    resumed_at = $29, deadline_at = $30, next_retry_at = $31, error_message = $32, error_code = $33,
    waiting_for = $34
    WHERE id = $1 AND last_seq = $2";

const INSERT_EVENTS: &str = "WITH incoming AS (
        SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::jsonb[], $7::timestamptz[],
            $8::text[], $9::json[], $10::text[], $11::text[], $12::text[])
        AS t(id, seq, log_type, message, metadata, at, event_type, payload, key, prev_hash, event_hash)),
    logs AS (
        INSERT INTO agent_task_logs (id, run_id, seq, log_type, message, metadata, created_at)
        SELECT id, $1, seq, log_type, message, metadata, at FROM incoming)
    INSERT INTO runtime.run_events
        (run_id, seq, event_type, payload, idempotency_key, recorded_at, prev_hash, event_hash)
    SELECT $1, seq, event_type, payload, key, at, prev_hash, event_hash FROM incoming";

const INSERT_OUTBOX: &str =
    "INSERT INTO agent_outbox (job_id, run_id, job, created_at) VALUES ($1, $2, $3, clock_timestamp())
     ON CONFLICT (job_id) DO NOTHING";

const DELETE_OUTBOX: &str = "DELETE FROM agent_outbox WHERE run_id = $1";

pub(crate) fn run_row(run: &RunRow, expected_seq: i64) -> Statement {
    let mut params = params![run.state.id.0, expected_seq];
    params.extend(state_params(run));
    params.extend(usage_params(run));
    params.extend(time_params(run));
    Statement::new(UPDATE_RUN, params)
}

/// `$3` to `$16`.
fn state_params(run: &RunRow) -> Vec<Param> {
    let state = &run.state;
    let lease_ms: Option<i64> = match run.lease_end {
        LeaseEnd::Keep => None,
        LeaseEnd::In(millis) => Some(millis),
    };
    params![
        state.status.as_str(),
        state.current_phase as i32,
        state.total_phases as i32,
        state.last_seq,
        state.epoch,
        state.lease.as_ref().map(|lease| lease.owner.0.clone()),
        lease_ms,
        state.job_id.map(|job| job.0),
        state.retry_count as i32,
        state.crash_count as i32,
        run.times.cancel_requested_at,
        run.traceparent.clone(),
        run.last_event_at,
        run.head_hash.clone(),
    ]
}

/// `$17` to `$24`.
fn usage_params(run: &RunRow) -> Vec<Param> {
    let counters = &run.counters;
    params![
        counters.total_steps,
        counters.completed_steps,
        counters.failed_steps,
        counters.tokens,
        counters.credits,
        counters.plan_version,
        counters.attempt,
        counters.state_version,
    ]
}

/// `$25` to `$34`.
fn time_params(run: &RunRow) -> Vec<Param> {
    let times = &run.times;
    params![
        times.queued_at,
        times.started_at,
        times.completed_at,
        times.paused_at,
        times.resumed_at,
        times.deadline_at,
        times.next_retry_at,
        run.error_message.clone(),
        run.error_code.clone(),
        run.waiting_for.clone(),
    ]
}

/// All events of a commit; there is at least one.
pub(crate) fn events(events: &[LinkedEvent]) -> Statement {
    let run_id = events.first().map_or(Uuid::nil(), |linked| linked.event.run_id.0);
    let texts = |pick: fn(&LinkedEvent) -> String| events.iter().map(pick).collect::<Vec<String>>();
    let params = params![
        run_id,
        events.iter().map(|linked| linked.event.id).collect::<Vec<Uuid>>(),
        events.iter().map(|linked| linked.event.seq).collect::<Vec<i64>>(),
        texts(|linked| linked.event.log_type.as_str().to_owned()),
        texts(|linked| linked.event.message.clone()),
        events
            .iter()
            .map(|linked| Value::Object(linked.event.metadata.clone()))
            .collect::<Vec<Value>>(),
        events
            .iter()
            .map(|linked| linked.event.created_at)
            .collect::<Vec<Timestamp>>(),
        texts(|linked| linked.event_type.clone()),
        events
            .iter()
            .map(|linked| linked.payload.clone())
            .collect::<Vec<Value>>(),
        events
            .iter()
            .map(|linked| linked.idempotency_key.clone())
            .collect::<Vec<Option<String>>>(),
        events
            .iter()
            .map(|linked| linked.prev_hash.clone())
            .collect::<Vec<Option<String>>>(),
        texts(|linked| linked.event_hash.clone()),
    ];
    Statement::new(INSERT_EVENTS, params)
}

/// Its time is the database's, by which the relay judges its age.
pub(crate) fn outbox(job: &Job) -> Statement {
    let text = serde_json::to_value(job).unwrap_or(Value::Null);
    Statement::new(INSERT_OUTBOX, params![job.job_id.0, job.run_id.0, text])
}

/// No job of this run may be pushed any more.
pub(crate) fn outbox_cleared(run: &RunRow) -> Statement {
    Statement::new(DELETE_OUTBOX, params![run.state.id.0])
}
