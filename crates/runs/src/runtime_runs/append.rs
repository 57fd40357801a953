//! Appending an event from outside, to a run driven from outside or by the platform.

use super::{AppendEvent, Appended, EventWindow, RuntimeError, RuntimeRuns, committed, public_line, twin};
use crate::authority::batch::{Batch, Context};
use crate::authority::load::{Locked, lock};
use crate::authority::write;
use crate::db::tx::{Statement, Tx, params};
use crate::figures;
use crate::orchestration::{CommandError, Committed, refuse};
use crate::runtime_machine::{Outcome, Refusal, State, Transition, step};
use crate::store::StoreError;
use domain::canonical::canonical;
use domain::change::Change;
use domain::command::Command;
use domain::decide::{Decision, JobIntent, Rejection, decide};
use domain::event::{LogType, NewEvent};
use domain::ids::RunId;
use domain::run::Origin;
use domain::runtime_event::state_word;
use domain::status::RunStatus;
use serde_json::{Value, json};

/// Longest event type, in bytes.
const MAX_EVENT_TYPE_BYTES: usize = 200;
/// Longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 512;

const KNOWN_KEY: &str =
    "SELECT event_type, payload FROM runtime.run_events WHERE run_id = $1 AND idempotency_key = $2";

impl RuntimeRuns {
    /// Appends an event; the reply shows the events of `window`.
    pub async fn append(
        &self,
        run_id: RunId,
        event: AppendEvent,
        window: EventWindow,
    ) -> Result<Appended, RuntimeError> {
        let mut event = cleaned(event)?;
        event.payload = self.storable(event.payload);
        let mut locked = lock(&self.db, run_id).await?.ok_or(RuntimeError::NotFound)?;
        let (replayed, committed) = match known(&mut locked.tx, run_id, &event).await {
            Ok(true) => (true, None),
            Ok(false) => return self.append_new(locked, event, window).await,
            Err(error) => return give_up(locked.tx, error).await,
        };
        locked.tx.roll_back().await?;
        let (run, events) = self.get(run_id, window).await?;
        Ok(Appended {
            run,
            events,
            replayed,
            committed,
        })
    }

    async fn append_new(
        &self,
        locked: Locked,
        event: AppendEvent,
        window: EventWindow,
    ) -> Result<Appended, RuntimeError> {
        let run_id = locked.run.state.id;
        let committed = match check(&locked, &event) {
            Ok(Outcome::NoOp) => {
                locked.tx.roll_back().await?;
                None
            }
            Ok(Outcome::Append(to)) => Some(write_event(locked, event, to, self.context()).await?),
            Err(error) => return give_up(locked.tx, error).await,
        };
        let (run, events) = self.get(run_id, window).await?;
        Ok(Appended {
            run,
            events,
            replayed: false,
            committed,
        })
    }
}

async fn give_up<T>(tx: Tx, error: RuntimeError) -> Result<T, RuntimeError> {
    tx.roll_back().await?;
    Err(error)
}

/// Trims type and key and refuses what cannot be stored.
fn cleaned(event: AppendEvent) -> Result<AppendEvent, RuntimeError> {
    let invalid = |text: &str| Err(RuntimeError::Invalid(text.to_owned()));
    let event_type = event.event_type.trim().to_owned();
    if event_type.is_empty() {
        return invalid("event_type cannot be empty");
    }
    if event_type.len() > MAX_EVENT_TYPE_BYTES || event_type.chars().any(char::is_control) {
        return invalid("event_type is not valid");
    }
    let key = event
        .idempotency_key
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty());
    if key.as_ref().is_some_and(|key| key.len() > MAX_KEY_BYTES) {
        return invalid("idempotency_key is too long");
    }
    Ok(AppendEvent {
        event_type,
        idempotency_key: key,
        ..event
    })
}

/// The key was used before for the same event.
async fn known(tx: &mut Tx, run_id: RunId, event: &AppendEvent) -> Result<bool, RuntimeError> {
    let Some(key) = &event.idempotency_key else {
        return Ok(false);
    };
    let rows = tx
        .read(Statement::new(KNOWN_KEY, params![run_id.0, key.clone()]))
        .await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let event_type: String = row.try_get(0).map_err(StoreError::from)?;
    let payload: Value = row.try_get(1).map_err(StoreError::from)?;
    if event_type == event.event_type && canonical(&payload) == canonical(&event.payload) {
        return Ok(true);
    }
    Err(RuntimeError::Conflict(
        "idempotency_key already used for a different event".to_owned(),
    ))
}

/// State machine, then expected seq.
fn check(locked: &Locked, event: &AppendEvent) -> Result<Outcome, RuntimeError> {
    let state = &locked.run.state;
    // Before its payload is looked at: whatever it says, it is not for the caller to say.
    let foreign = matches!(event.event_type.as_str(), "run.started" | "run.finished");
    if state.origin == Origin::AgentApi && foreign {
        return Err(RuntimeError::Conflict("run is driven by the platform".to_owned()));
    }
    let transition = Transition::of_event(&event.event_type, &event.payload)?;
    let word = state_word(state.status, state.cancel_requested);
    let from = State::parse(word).ok_or_else(|| StoreError::row("unknown state word"))?;
    let outcome = step(from, transition)?;
    match event.expected_previous_seq {
        Some(expected) if expected != state.last_seq && outcome != Outcome::NoOp => {
            let text = format!(
                "expected_previous_seq {expected} does not match actual previous seq {}",
                state.last_seq
            );
            Err(RuntimeError::Conflict(text))
        }
        _ => Ok(outcome),
    }
}

async fn write_event(
    locked: Locked,
    event: AppendEvent,
    to: State,
    context: Context<'_>,
) -> Result<Committed, RuntimeError> {
    let Locked {
        tx,
        run,
        open_steps,
        projection,
    } = locked;
    let platform = run.state.origin == Origin::AgentApi;
    let cancels = event.event_type == "run.cancel_requested";
    let stop = match (platform && cancels)
        .then(|| decide(&run.state, Command::Stop))
        .transpose()
    {
        Ok(stop) => stop,
        Err(rejection) => return give_up(tx, RuntimeError::Conflict(rejection.to_string())).await,
    };
    let mut batch = Batch::new(context, run, open_steps);
    push_external(&mut batch, event, to);
    let mut done = committed(batch.run.state.clone(), vec![]);
    if let Some(stop) = stop {
        apply_stop(&mut batch, stop, &mut done);
    }
    let (statements, run, events) = batch.finish(projection);
    tx.commit(statements)
        .await
        .inspect_err(|_| figures::commit_failed())?;
    Ok(Committed {
        run: run.state,
        events,
        ..done
    })
}

/// Puts the event and its public line into the batch, and moves the state of a run driven from outside.
fn push_external(batch: &mut Batch<'_>, event: AppendEvent, to: State) {
    let AppendEvent {
        event_type,
        payload,
        idempotency_key,
        ..
    } = event;
    let ended = match to {
        State::Succeeded => Some(RunStatus::Completed),
        State::Failed => Some(RunStatus::Failed),
        State::Canceled => Some(RunStatus::Cancelled),
        State::Created | State::Running | State::Canceling => None,
    };
    let cancels = event_type == "run.cancel_requested";
    let line = match ended {
        Some(status) => NewEvent::complete(status, None),
        None if cancels => cancel_line(&payload),
        None => public_line(&event_type, &payload),
    };
    if let Some(status) = ended {
        batch.run.state.status = status;
        batch.run.counters.state_version += 1;
        batch.run.error_code = payload
            .get("error_code")
            .and_then(Value::as_str)
            .map(str::to_owned);
    }
    if to == State::Running && batch.run.state.status == RunStatus::Created {
        batch.run.state.status = RunStatus::Executing;
        batch.run.counters.state_version += 1;
    }
    let at = batch.push_twin(line, twin(&event_type, payload, idempotency_key));
    if ended.is_some() {
        batch.run.times.completed_at = Some(at);
    }
    if cancels {
        batch.run.state.cancel_requested = true;
        batch.run.times.cancel_requested_at = batch.run.times.cancel_requested_at.or(Some(at));
    }
}

fn cancel_line(payload: &Value) -> NewEvent {
    let metadata = json!({"event": "cancel_requested", "event_type": "run.cancel_requested",
        "requested_by": payload.get("requested_by").cloned().unwrap_or_else(|| json!("runtime")),
        "payload": payload});
    NewEvent::new(LogType::Info, "Stop requested", metadata)
}

/// A cancel request on a platform run is `stop`; the request's own event stands for the one `stop` would write.
fn apply_stop(batch: &mut Batch<'_>, stop: Decision, done: &mut Committed) {
    for change in stop.changes {
        if !matches!(change, Change::Log(_)) {
            batch.apply(change);
        }
    }
    batch.lease(stop.lease, 0);
    if stop.job == JobIntent::Remove {
        done.remove_job = batch.run.state.job_id;
        batch.writes.push(write::outbox_cleared(&batch.run));
    }
}

/// `stop` of the public API on a run driven from outside: the request is noted, its driver ends it.
pub(crate) async fn stop(locked: Locked, context: Context<'_>) -> Result<Committed, CommandError> {
    let state = &locked.run.state;
    let word = state_word(state.status, state.cancel_requested);
    let from = State::parse(word).ok_or_else(|| StoreError::row("unknown state word"))?;
    match step(from, Transition::RequestCancel) {
        Ok(Outcome::Append(to)) => {
            let event = AppendEvent {
                event_type: "run.cancel_requested".to_owned(),
                payload: json!({"reason": "stop", "requested_by": "user"}),
                idempotency_key: None,
                expected_previous_seq: None,
            };
            write_event(locked, event, to, context)
                .await
                .map_err(command_error)
        }
        Ok(Outcome::NoOp) | Err(Refusal::Invalid(_) | Refusal::Conflict(_)) => {
            let ended = Rejection::Transition {
                action: "cancel",
                status: state.status,
            };
            refuse(locked.tx, ended.into()).await
        }
    }
}

fn command_error(error: RuntimeError) -> CommandError {
    match error {
        RuntimeError::NotFound => CommandError::NotFound,
        RuntimeError::Unavailable(fault) => CommandError::Unavailable(fault),
        RuntimeError::Database(fault) => CommandError::Database(fault),
        RuntimeError::Invalid(text) | RuntimeError::Forbidden(text) | RuntimeError::Conflict(text) => {
            CommandError::Database(crate::store::Fault::Row(text))
        }
    }
}
