//! Reading a run under its row's lock, with what its commands may need, in one round trip.

use super::row::{RunRow, column, run_columns};
use super::steps::OpenStep;
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params};
use crate::projectors::{Projection, READ_PROJECTION};
use crate::store::StoreError;
use domain::ids::{RunId, StepId};
use std::collections::HashMap;
use tokio_postgres::Row;
use uuid::Uuid;

const LOCK_RUN: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM agent_runs WHERE id = $1 FOR UPDATE"
);

/// Steps that are not settled; read after the lock, so that it is the state after the last commit.
const OPEN_STEPS: &str = "SELECT id, tool_name, turn, action, phase_number, started_at
    FROM agent_steps WHERE run_id = $1 AND status IN ('pending', 'running') ORDER BY step_number";

/// A run whose row is locked until the transaction ends.
pub(crate) struct Locked {
    pub(crate) tx: Tx,
    pub(crate) run: RunRow,
    pub(crate) open_steps: HashMap<StepId, OpenStep>,
    pub(crate) projection: Projection,
}

/// Locks the run, or nothing when there is none.
pub(crate) async fn lock(db: &Db, run_id: RunId) -> Result<Option<Locked>, StoreError> {
    let topic = crate::projectors::topic(run_id);
    let reads = vec![
        Statement::new(LOCK_RUN, params![run_id.0]),
        Statement::new(OPEN_STEPS, params![run_id.0]),
        Statement::new(READ_PROJECTION, params![topic, run_id.0]),
    ];
    let (tx, rows) = Tx::begin(db, reads).await?;
    let [run, steps, projection] = &rows[..] else {
        return Err(StoreError::row("three answers expected"));
    };
    let Some(run) = run.first() else {
        tx.roll_back().await?;
        return Ok(None);
    };
    let run = RunRow::read(run)?;
    let open_steps = steps.iter().map(open_step).collect::<Result<_, _>>()?;
    let projection = projection
        .first()
        .map(Projection::read)
        .transpose()?
        .unwrap_or_default();
    Ok(Some(Locked {
        tx,
        run,
        open_steps,
        projection,
    }))
}

fn open_step(row: &Row) -> Result<(StepId, OpenStep), StoreError> {
    let step = OpenStep {
        tool_name: column(row, "tool_name")?,
        started_at: column(row, "started_at")?,
    };
    Ok((StepId(column::<Uuid>(row, "id")?), step))
}
