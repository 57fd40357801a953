//! Reading a run under its row's lock, with what its commands may need, in one round trip.

use super::interrupts::open_interrupts;
use super::row::{RunRow, column, run_columns};
use super::steps::OpenStep;
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params};
use crate::projectors::Projection;
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

/// The projections' state and the steps that are not settled, one row at least; read after the lock, so that it is the
/// state after the last commit. Parameters: topic, run id.
const AROUND: &str = "SELECT coalesce(c.last_seq, 0) AS last_seq, coalesce(s.event_count, 0) AS event_count,
        o.id, o.tool_name, o.started_at, coalesce(o.metadata ? 'waited', false) AS waited,
        (SELECT json_agg(json_build_object('id', i.id, 'kind', i.kind, 'tool_name', i.tool_name, 'expires_at', i.expires_at)
            ORDER BY i.turn, i.action) FROM agent_interrupts i WHERE i.run_id = $2 AND i.status = 'open') AS interrupts
      FROM (SELECT 1) AS one
      LEFT JOIN runtime.projection_checkpoints c ON c.topic = $1
      LEFT JOIN runtime.run_summaries s ON s.run_id = $2
      LEFT JOIN agent_steps o ON o.run_id = $2 AND o.status IN ('pending', 'running')";

/// A run whose row is locked until the transaction ends.
pub(crate) struct Locked {
    pub(crate) tx: Tx,
    pub(crate) run: RunRow,
    pub(crate) open_steps: HashMap<StepId, OpenStep>,
    pub(crate) projection: Projection,
}

/// Locks the run, or nothing when there is none.
pub(crate) async fn lock(db: &Db, run_id: RunId) -> Result<Option<Locked>, StoreError> {
    Ok(lock_and_read(db, run_id, vec![]).await?.map(|(locked, _)| locked))
}

/// As [`lock`], with the rows of more reads: as long as the lock is held nothing of the run changes.
pub(crate) async fn lock_and_read(
    db: &Db,
    run_id: RunId,
    more: Vec<Statement>,
) -> Result<Option<(Locked, Vec<Vec<Row>>)>, StoreError> {
    let topic = crate::projectors::topic(run_id);
    let mut reads = vec![
        Statement::new(LOCK_RUN, params![run_id.0]),
        Statement::new(AROUND, params![topic, run_id.0]),
    ];
    reads.extend(more);
    let (tx, mut rows) = Tx::begin(db, reads).await?;
    let more = rows.split_off(2);
    let [run, around] = &rows[..] else {
        return Err(StoreError::row("two answers expected"));
    };
    let Some(run) = run.first() else {
        tx.roll_back().await?;
        return Ok(None);
    };
    let mut run = RunRow::read(run)?;
    if let Some(first) = around.first() {
        run.state.interrupts = open_interrupts(column(first, "interrupts")?)?;
    }
    let projection = around
        .first()
        .map(Projection::read)
        .transpose()?
        .unwrap_or_default();
    let open_steps = around.iter().filter_map(|row| open_step(row).transpose());
    let open_steps = open_steps.collect::<Result<_, _>>()?;
    let locked = Locked {
        tx,
        run,
        open_steps,
        projection,
    };
    Ok(Some((locked, more)))
}

fn open_step(row: &Row) -> Result<Option<(StepId, OpenStep)>, StoreError> {
    let Some(id) = column::<Option<Uuid>>(row, "id")? else {
        return Ok(None);
    };
    let step = OpenStep {
        tool_name: column(row, "tool_name")?,
        started_at: column(row, "started_at")?,
        waited: column(row, "waited")?,
    };
    Ok(Some((StepId(id), step)))
}
