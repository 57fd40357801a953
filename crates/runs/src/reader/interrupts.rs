//! What a run asks a person, in the shape of AG-UI's interrupts.

use super::Reader;
use super::rows::{to_value, to_values};
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::{InterruptId, RunId};
use serde_json::Value;

/// Members as they are shown, in this order.
macro_rules! shown {
    () => {
        "id, run_id AS \"runId\", kind,
         CASE kind WHEN 'tool' THEN 'tool_call' WHEN 'plan' THEN 'confirmation' ELSE 'input_required' END AS reason,
         message, step_id AS \"toolCallId\", tool_name AS \"toolName\", tool_input AS \"toolInput\", hash, labels,
         response_schema AS \"responseSchema\", status, decision, created_at AS \"createdAt\",
         expires_at AS \"expiresAt\", decided_at AS \"decidedAt\", reason AS detail, response FROM agent_interrupts"
    };
}

const LIST: &str = concat!(
    "SELECT ",
    shown!(),
    " WHERE run_id = $1 AND ($2 OR status = 'open') ORDER BY created_at, turn, action, id"
);

const ONE: &str = concat!("SELECT ", shown!(), " WHERE run_id = $1 AND id = $2");

impl Reader {
    /// The open ones, or all, oldest first.
    pub async fn interrupts(&self, run_id: RunId, all: bool) -> Result<Vec<Value>, StoreError> {
        to_values(&query(&self.db, Statement::new(LIST, params![run_id.0, all])).await?)
    }

    /// One of a run.
    pub async fn interrupt(&self, run_id: RunId, id: InterruptId) -> Result<Option<Value>, StoreError> {
        let rows = query(&self.db, Statement::new(ONE, params![run_id.0, id.0])).await?;
        rows.first().map(to_value).transpose()
    }
}
