//! A run and its parts.

use super::Reader;
use super::rows::{to_value, to_values};
use super::waiting::{explain, standing_columns};
use crate::authority::row::column;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::{RunId, UserId};
use domain::run::{Origin, percentage};
use domain::status::RunStatus;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

const HEAD: &str = "SELECT id, user_id, origin, status, last_seq FROM agent_runs WHERE id = $1";
const HEADS: &str = "SELECT id, user_id, origin, status, last_seq FROM agent_runs WHERE id = ANY($1)";

const RUN: &str = concat!(
    "SELECT id, user_id, prompt, status, plan, plan_version, current_phase, total_steps,
        completed_steps, failed_steps, total_tokens_used, total_credits_used::float8 AS total_credits_used,
        priority, retry_of, external_id, attempt, retry_count, max_retries, next_retry_at, error_message,
        error_code, metadata, state_version, last_seq, created_at, queued_at, started_at, completed_at,
        paused_at, resumed_at, deadline_at, ",
    standing_columns!(),
    " FROM agent_runs r WHERE id = $1"
);
const PROGRESS: &str = "SELECT status, current_phase, total_phases FROM agent_runs WHERE id = $1";

const STEPS: &str = "SELECT id, run_id, step_number, phase_number, tool_name, tool_input, tool_output, status,
        credits_used::float8 AS credits_used, retry_count, idempotency_key, error_message, metadata, created_at,
        started_at, completed_at, duration_ms
    FROM agent_steps WHERE run_id = $1 ORDER BY step_number LIMIT $2";
const MESSAGES: &str =
    "SELECT id, run_id, step_id, role, content, tool_call_id, tool_name, metadata, created_at
    FROM agent_messages WHERE run_id = $1 ORDER BY created_at, id LIMIT $2";
const ARTIFACTS: &str = "SELECT id, run_id, step_id, user_id, filename, file_path, file_type, file_size,
        content_hash, storage_bucket, storage_key, created_at
    FROM agent_artifacts WHERE run_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2";
const LOGS: &str = "SELECT id, run_id, seq, log_type, message, metadata, created_at
    FROM agent_task_logs WHERE run_id = $1 ORDER BY seq DESC LIMIT $2";

/// Which list of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunParts {
    /// Oldest first.
    Steps,
    /// Oldest first.
    Messages,
    /// Newest first.
    Artifacts,
    /// Newest first.
    Logs,
}

/// Where a run stands, as far as streams need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunHead {
    pub run_id: RunId,
    /// Only runs made on the runtime surface may have none.
    pub user_id: Option<UserId>,
    pub origin: Origin,
    pub status: RunStatus,
    /// Seq of the newest event.
    pub last_seq: i64,
}

fn head(row: &Row) -> Result<RunHead, StoreError> {
    let (origin, status): (&str, &str) = (column(row, "origin")?, column(row, "status")?);
    Ok(RunHead {
        run_id: RunId(column(row, "id")?),
        user_id: column::<Option<String>>(row, "user_id")?.map(UserId),
        origin: Origin::parse(origin).ok_or_else(|| StoreError::row("unknown origin"))?,
        status: RunStatus::parse(status).ok_or_else(|| StoreError::row("unknown status"))?,
        last_seq: column(row, "last_seq")?,
    })
}

fn shown(row: &Row) -> Result<Value, StoreError> {
    let mut run = to_value(row)?;
    explain(row, &mut run)?;
    Ok(run)
}

impl Reader {
    /// The run's head, whoever owns it.
    pub async fn head(&self, run_id: RunId) -> Result<Option<RunHead>, StoreError> {
        let rows = query(&self.db, Statement::new(HEAD, params![run_id.0])).await?;
        rows.first().map(head).transpose()
    }

    /// The heads of these runs, in any order; unknown ids are left out.
    pub async fn heads(&self, runs: &[RunId]) -> Result<Vec<RunHead>, StoreError> {
        let ids: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
        query(&self.db, Statement::new(HEADS, params![ids]))
            .await?
            .iter()
            .map(head)
            .collect()
    }

    /// The head of a run of this user; nothing for an unknown and for a foreign run alike.
    pub async fn authorize(&self, user: &UserId, run_id: RunId) -> Result<Option<RunHead>, StoreError> {
        let head = self.head(run_id).await?;
        Ok(head.filter(|head| head.user_id.as_ref() == Some(user)))
    }

    /// The `run` object: the columns of `agent_runs` an operator may rely on, but the lease ones, and `waiting_for`.
    pub async fn run(&self, run_id: RunId) -> Result<Option<Value>, StoreError> {
        let rows = query(&self.db, Statement::new(RUN, params![run_id.0])).await?;
        rows.first().map(shown).transpose()
    }

    /// `{"percentage","current_phase","total_phases","status"}`.
    pub async fn progress(&self, run_id: RunId) -> Result<Option<Value>, StoreError> {
        let rows = query(&self.db, Statement::new(PROGRESS, params![run_id.0])).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (current, total): (i32, i32) = (column(row, "current_phase")?, column(row, "total_phases")?);
        let status: String = column(row, "status")?;
        let completed = status == RunStatus::Completed.as_str();
        let percentage = percentage(current.max(0) as u32, total.max(0) as u32, completed);
        Ok(Some(
            json!({"percentage": percentage, "current_phase": current, "total_phases": total, "status": status}),
        ))
    }

    /// At most `limit` rows of one of the run's lists.
    pub async fn parts(&self, run_id: RunId, parts: RunParts, limit: i64) -> Result<Vec<Value>, StoreError> {
        let sql = match parts {
            RunParts::Steps => STEPS,
            RunParts::Messages => MESSAGES,
            RunParts::Artifacts => ARTIFACTS,
            RunParts::Logs => LOGS,
        };
        to_values(&query(&self.db, Statement::new(sql, params![run_id.0, limit])).await?)
    }
}
