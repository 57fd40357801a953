//! The statement every commit has: the run row, its events with their twins, and the projections, in one go.

use super::batch::LinkedEvent;
use super::row::{LeaseEnd, RunRow};
use crate::db::tx::{Param, Statement, params};
use domain::job::Job;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

/// `$2` is the `last_seq` that was read: a second lock besides the row's.
macro_rules! update_run {
    () => {
        "UPDATE agent_runs SET
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
    WHERE id = $1 AND last_seq = $2"
    };
}

/// Events, their twins and the projections made from them, behind other parts of one `WITH`.
macro_rules! write_events {
    () => {
        "incoming AS (
        SELECT * FROM unnest($35::uuid[], $36::bigint[], $37::text[], $38::text[], $39::jsonb[], $40::timestamptz[],
            $41::text[], $42::json[], $43::text[], $44::text[], $45::text[])
        AS t(id, seq, log_type, message, metadata, at, event_type, payload, key, prev_hash, event_hash)),
    logs AS (
        INSERT INTO agent_task_logs (id, run_id, seq, log_type, message, metadata, created_at)
        SELECT id, $1, seq, log_type, message, metadata, at FROM incoming),
    checkpoint AS (
        INSERT INTO runtime.projection_checkpoints AS c (topic, last_seq, last_event_type, updated_at)
        VALUES ($46, $47, $48, $49)
        ON CONFLICT (topic) DO UPDATE SET last_seq = excluded.last_seq,
            last_event_type = excluded.last_event_type, updated_at = excluded.updated_at
        WHERE c.last_seq < excluded.last_seq),
    summary AS (
        INSERT INTO runtime.run_summaries AS s
            (run_id, status, last_seq, event_count, projection_hash, updated_at)
        VALUES ($1, $50, $47, $51, $52, $49)
        ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, last_seq = excluded.last_seq,
            event_count = excluded.event_count, projection_hash = excluded.projection_hash,
            updated_at = excluded.updated_at
        WHERE s.last_seq <= excluded.last_seq)
    INSERT INTO runtime.run_events
        (run_id, seq, event_type, payload, idempotency_key, recorded_at, prev_hash, event_hash)
    SELECT $1, seq, event_type, payload, key, at, prev_hash, event_hash FROM incoming"
    };
}

const UPDATE_RUN: &str = update_run!();

/// One statement instead of three: each one costs the server more than its rows do.
const UPDATE_RUN_WITH_EVENTS: &str = concat!("WITH run AS (", update_run!(), "), ", write_events!());

/// A new run as it is after its first commit, with its prompt and, when it is queued at once, its outbox row.
const INSERT_RUN_WITH_EVENTS: &str = concat!(
    "WITH run AS (
        INSERT INTO agent_runs (id, created_at, status, current_phase, total_phases, last_seq, fencing_token, lease_owner,
            lease_expires_at, job_id, retry_count, crash_count, cancel_requested_at, traceparent,
            last_event_at, event_head_hash, total_steps, completed_steps, failed_steps,
            total_tokens_used, total_credits_used, plan_version, attempt,
            state_version, queued_at, started_at, completed_at, paused_at,
            resumed_at, deadline_at, next_retry_at, error_message, error_code,
            waiting_for, origin, user_id, prompt, priority, retry_of, max_retries, metadata)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8,
            clock_timestamp() + $9::bigint * interval '1 millisecond', $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
            $20, $21::float8::numeric, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, 'agent_api', $53,
            $54, $55, $56, $57, $58)),
    prompt AS (
        INSERT INTO agent_messages (id, run_id, role, content, created_at) VALUES ($59, $1, 'user', $54, $60)),
    outbox AS (
        INSERT INTO agent_outbox (job_id, run_id, job, created_at)
        SELECT $10, $1, $61, clock_timestamp() WHERE $61::json IS NOT NULL), ",
    write_events!()
);

const INSERT_OUTBOX: &str =
    "INSERT INTO agent_outbox (job_id, run_id, job, created_at) VALUES ($1, $2, $3, clock_timestamp())
     ON CONFLICT (job_id) DO NOTHING";

const DELETE_OUTBOX: &str = "DELETE FROM agent_outbox WHERE run_id = $1";

/// The row alone, of a commit without events.
pub(crate) fn run_row(run: &RunRow, expected_seq: i64) -> Statement {
    Statement::new(UPDATE_RUN, row_params(run, params![expected_seq]))
}

/// The row, its events, and the projections after them (parameters of `Projected`).
pub(crate) fn run_and_events(
    run: &RunRow,
    expected_seq: i64,
    events: &[LinkedEvent],
    projected: Vec<Param>,
) -> Statement {
    let mut params = row_params(run, params![expected_seq]);
    params.extend(event_params(events));
    params.extend(projected);
    Statement::new(UPDATE_RUN_WITH_EVENTS, params)
}

/// As [`run_and_events`], of a run whose row is not there yet. `fresh`: user, prompt, priority, retry of, retries,
/// metadata, id and time of the prompt's message, and the job, if it is queued at once.
pub(crate) fn new_run_and_events(
    run: &RunRow,
    events: &[LinkedEvent],
    projected: Vec<Param>,
    fresh: Vec<Param>,
) -> Statement {
    let mut params = row_params(run, params![run.created_at]);
    params.extend(event_params(events));
    params.extend(projected);
    params.extend(fresh);
    Statement::new(INSERT_RUN_WITH_EVENTS, params)
}

/// `$1` to `$34`; `second` is `$2`.
fn row_params(run: &RunRow, second: Vec<Param>) -> Vec<Param> {
    let mut params = params![run.state.id.0];
    params.extend(second);
    params.extend(state_params(run));
    params.extend(usage_params(run));
    params.extend(time_params(run));
    params
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

/// `$35` to `$45`, one array per column.
fn event_params(events: &[LinkedEvent]) -> Vec<Param> {
    let texts = |pick: fn(&LinkedEvent) -> String| events.iter().map(pick).collect::<Vec<String>>();
    params![
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
    ]
}

/// Its time is the database's, by which the relay judges its age.
pub(crate) fn outbox(job: &Job) -> Statement {
    Statement::new(INSERT_OUTBOX, params![job.job_id.0, job.run_id.0, job_json(job)])
}

/// The job as the outbox keeps it.
pub(crate) fn job_json(job: &Job) -> Value {
    serde_json::to_value(job).unwrap_or(Value::Null)
}

/// No job of this run may be pushed any more.
pub(crate) fn outbox_cleared(run: &RunRow) -> Statement {
    Statement::new(DELETE_OUTBOX, params![run.state.id.0])
}
