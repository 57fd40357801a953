//! The effect ledger of a run: every tool call, claimed before and settled after.

use super::Reader;
use super::rows::to_values;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::RunId;
use serde_json::Value;

/// `state`: `pending` (may begin), `claimed` (begun), `unknown` (its worker was lost, its user must say) or `settled`.
const EFFECTS: &str = "SELECT id AS step_id, step_number, tool_name, tool_input, effect, status,
        CASE WHEN status = 'running' THEN coalesce(metadata ->> 'outcome', 'claimed')
             WHEN status = 'pending' THEN 'pending' ELSE 'settled' END AS state,
        idempotency_key, retry_count + 1 AS tries, claimed_epoch, settled_epoch, error_message,
        started_at AS claimed_at, completed_at AS settled_at
    FROM agent_steps WHERE run_id = $1 ORDER BY step_number";

impl Reader {
    /// The ledger, in the order of the steps.
    pub async fn effects(&self, run_id: RunId) -> Result<Vec<Value>, StoreError> {
        to_values(&query(&self.db, Statement::new(EFFECTS, params![run_id.0])).await?)
    }
}
