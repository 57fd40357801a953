//! What a run asks a person: opened with the wait, closed by the first decision or by the run's end.

use super::batch::Batch;
use super::row::column;
use crate::db::tx::{Statement, params};
use crate::store::StoreError;
use domain::clock::wire_time;
use domain::event::NewEvent;
use domain::ids::InterruptId;
use domain::interrupt::{
    InterruptDecision, InterruptKind, InterruptStatus, KnownInterrupt, NewInterrupt, OpenInterrupt,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

/// Of one run, in the order they were asked in.
pub(crate) const INTERRUPTS: &str = "SELECT id, kind, turn, action, hash, status, decision, response
    FROM agent_interrupts WHERE run_id = $1 ORDER BY created_at, turn, action, id";

const INSERT_INTERRUPT: &str = "INSERT INTO agent_interrupts
        (id, run_id, kind, turn, action, step_id, tool_name, tool_input, hash, labels, message, reason, response_schema,
         status, created_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'open', $14, $15)
    ON CONFLICT (id) DO NOTHING";

const CLOSE_INTERRUPT: &str = "UPDATE agent_interrupts
    SET status = $3, decision = $4, response = $5, decided_by = $6, decided_at = $7
    WHERE id = $1 AND run_id = $2 AND status = 'open'";

const CANCEL_INTERRUPTS: &str = "UPDATE agent_interrupts SET status = 'cancelled', decided_at = $2
    WHERE run_id = $1 AND status = 'open'";

impl Batch<'_> {
    pub(super) fn interrupt_opened(&mut self, new: NewInterrupt) {
        if self.run.state.interrupts.iter().any(|open| open.id == new.id) {
            return;
        }
        let mut message = new.message.clone();
        self.context.redactor.string(&mut message);
        let at = match new.kind {
            InterruptKind::Question => self.tick(),
            InterruptKind::Tool | InterruptKind::Plan => self.push(requested(&new, &message)),
        };
        self.run.state.interrupts.push(OpenInterrupt {
            id: new.id,
            kind: new.kind,
            tool_name: new.tool_name.clone(),
            expires_at: new.expires_at,
        });
        let params = params![
            new.id.0,
            self.run.state.id.0,
            new.kind.as_str(),
            new.turn as i32,
            new.action as i32,
            new.step_id.map(|step| step.0),
            new.tool_name,
            new.tool_input,
            new.hash,
            json!(new.labels.names()),
            message,
            new.reason,
            new.response_schema,
            at,
            new.expires_at,
        ];
        self.writes.push(Statement::new(INSERT_INTERRUPT, params));
    }

    pub(super) fn interrupt_closed(
        &mut self,
        id: InterruptId,
        status: InterruptStatus,
        decision: Option<InterruptDecision>,
        response: Value,
    ) {
        self.run.state.interrupts.retain(|open| open.id != id);
        let by = decision.and_then(|_| self.run.state.user_id.as_ref().map(|user| user.0.clone()));
        let at = self.tick();
        let params = params![
            id.0,
            self.run.state.id.0,
            status.as_str(),
            decision.map(InterruptDecision::as_str),
            response,
            by,
            at,
        ];
        self.writes.push(Statement::new(CLOSE_INTERRUPT, params));
    }

    /// Nobody needs to decide about a run that has ended.
    pub(super) fn cancel_interrupts(&mut self, at: Timestamp) {
        if !self.run.state.interrupts.is_empty() {
            self.run.state.interrupts.clear();
            let params = params![self.run.state.id.0, at];
            self.writes.push(Statement::new(CANCEL_INTERRUPTS, params));
        }
    }
}

fn requested(new: &NewInterrupt, message: &str) -> NewEvent {
    let metadata = json!({
        "event": "approval_requested",
        "interrupt_id": new.id,
        "kind": new.kind.as_str(),
        "step_id": new.step_id,
        "tool_name": new.tool_name,
        "tool_input": new.tool_input,
        "hash": new.hash,
        "labels": new.labels.names(),
        "reason": new.reason,
        "expires_at": new.expires_at.map(wire_time),
    });
    NewEvent::warning(format!("Approval requested: {message}"), metadata)
}

#[derive(Deserialize)]
struct StoredOpen {
    id: Uuid,
    kind: String,
    tool_name: Option<String>,
    expires_at: Option<Timestamp>,
}

/// The open ones, from the list that is read with the run's lock.
pub(crate) fn open_interrupts(list: Option<Value>) -> Result<Vec<OpenInterrupt>, StoreError> {
    let Some(list) = list else { return Ok(vec![]) };
    let stored: Vec<StoredOpen> =
        serde_json::from_value(list).map_err(|fault| StoreError::row(fault.to_string()))?;
    stored
        .into_iter()
        .map(|open| {
            Ok(OpenInterrupt {
                id: InterruptId(open.id),
                kind: known(InterruptKind::parse(&open.kind))?,
                tool_name: open.tool_name,
                expires_at: open.expires_at,
            })
        })
        .collect()
}

/// A row of [`INTERRUPTS`].
pub(crate) fn known_interrupt(row: &Row) -> Result<KnownInterrupt, StoreError> {
    let (kind, status): (String, String) = (column(row, "kind")?, column(row, "status")?);
    let decision: Option<String> = column(row, "decision")?;
    let number = |name| column::<i32>(row, name).map(|number| number.max(0) as u32);
    Ok(KnownInterrupt {
        id: InterruptId(column(row, "id")?),
        kind: known(InterruptKind::parse(&kind))?,
        turn: number("turn")?,
        action: number("action")?,
        hash: column(row, "hash")?,
        status: known(InterruptStatus::parse(&status))?,
        decision: decision
            .map(|word| known(InterruptDecision::parse(&word)))
            .transpose()?,
        response: column::<Option<Value>>(row, "response")?.unwrap_or(Value::Null),
    })
}

fn known<T>(word: Option<T>) -> Result<T, StoreError> {
    word.ok_or_else(|| StoreError::row("an interrupt holds an unknown word"))
}
