//! Events by seq and by time. Within a run both rise together, so either is a cursor.

use super::Reader;
use super::rows::to_values;
use crate::authority::row::column;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::event::{Event, LogType};
use domain::ids::RunId;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;

const EVENTS: &str = "SELECT id, run_id, seq, log_type, message, metadata, created_at FROM agent_task_logs
    WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
/// The time is a seq first, so that a page is one range of the (run, seq) index.
const LOGS: &str = "SELECT id, run_id, seq, log_type, message, metadata, created_at FROM agent_task_logs
    WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
const SEQUENCE_AT: &str = "SELECT seq FROM agent_task_logs WHERE run_id = $1 AND created_at <= $2
    ORDER BY created_at DESC LIMIT 1";

/// A page of the log to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only rows with a later `created_at`.
    pub since: Option<Timestamp>,
    /// Only rows with a higher seq.
    pub after: Option<i64>,
    /// At least 1.
    pub limit: u32,
}

/// A page of the log, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPage {
    /// `id`, `run_id`, `seq`, `log_type`, `message`, `metadata`, `created_at`.
    pub logs: Vec<Value>,
    /// More rows were there when the page was read.
    pub has_more: bool,
    /// `created_at` of the last row when there are more, in wire form.
    pub next_cursor: Option<String>,
}

pub(super) fn event(row: &Row) -> Result<Event, StoreError> {
    let log_type: &str = column(row, "log_type")?;
    let metadata: Value = column(row, "metadata")?;
    Ok(Event {
        id: column(row, "id")?,
        run_id: RunId(column(row, "run_id")?),
        seq: column(row, "seq")?,
        log_type: LogType::parse(log_type).ok_or_else(|| StoreError::row("unknown log_type"))?,
        message: column(row, "message")?,
        metadata: match metadata {
            Value::Object(map) => map,
            _ => return Err(StoreError::row("metadata is no object")),
        },
        created_at: column(row, "created_at")?,
    })
}

impl Reader {
    /// At most `limit` events beyond `seq`, in order.
    pub async fn events_after(&self, run_id: RunId, seq: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let params = params![run_id.0, seq, i64::from(limit)];
        query(&self.db, Statement::new(EVENTS, params))
            .await?
            .iter()
            .map(event)
            .collect()
    }

    /// Seq of the newest event not newer than this time; 0 when all are newer.
    pub async fn sequence_at(&self, run_id: RunId, since: Timestamp) -> Result<i64, StoreError> {
        let rows = query(&self.db, Statement::new(SEQUENCE_AT, params![run_id.0, since])).await?;
        rows.first().map_or(Ok(0), |row| column(row, "seq"))
    }

    /// The seq to start after for the newest `count` events of a run whose newest seq is `last_seq`.
    pub const fn tail_start(last_seq: i64, count: u64) -> i64 {
        let start = last_seq.saturating_sub_unsigned(count);
        if start < 0 { 0 } else { start }
    }

    /// A page of the log.
    pub async fn logs(&self, run_id: RunId, page: LogQuery) -> Result<LogPage, StoreError> {
        let since = match page.since {
            Some(since) => self.sequence_at(run_id, since).await?,
            None => 0,
        };
        let after = page.after.unwrap_or(0).max(since);
        let limit = page.limit.max(1) as usize;
        let params = params![run_id.0, after, limit as i64 + 1];
        let rows = query(&self.db, Statement::new(LOGS, params)).await?;
        let mut logs = to_values(&rows)?;
        let has_more = logs.len() > limit;
        logs.truncate(limit);
        let last = logs
            .last()
            .and_then(|row| row["created_at"].as_str())
            .map(str::to_owned);
        Ok(LogPage {
            logs,
            has_more,
            next_cursor: last.filter(|_| has_more),
        })
    }
}
