//! Why a run does not move, as far as Postgres knows. Where it stands in the queue is Redis' to say.

use crate::authority::row::column;
use crate::store::StoreError;
use domain::clock::wire_time;
use domain::status::RunStatus;
use domain::waiting::{WaitKind, is_sandbox_capacity, waiting};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;

/// Columns of `agent_runs r` that [`of_row`] reads; they are not shown.
macro_rules! standing_columns {
    () => {
        "origin = 'agent_api' AS w_ours, status AS w_status, waiting_for AS w_stored, \
         coalesce(lease_owner IS NOT NULL AND lease_expires_at > clock_timestamp(), false) AS w_held, \
         coalesce(next_retry_at > clock_timestamp(), false) AS w_retrying, next_retry_at AS w_retry_at, \
         lease_expires_at AS w_lease_end, last_event_at AS w_event_at, paused_at AS w_paused_at, \
         created_at AS w_created_at, greatest(queued_at, resumed_at, next_retry_at) AS w_queued_at, \
         lease_owner IS NOT NULL AS w_owned, \
         EXISTS (SELECT 1 FROM agent_outbox o WHERE o.run_id = r.id \
            AND o.created_at < clock_timestamp() - interval '100 milliseconds') AS w_in_outbox"
    };
}
pub(crate) use standing_columns;

/// First letters of the columns above.
const HIDDEN: &str = "w_";

/// The worker's name on a run's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    /// Its lease has run out.
    Lost,
    Alive,
}

/// What a run's row says about its standing.
#[derive(Debug, Clone)]
struct Standing {
    status: RunStatus,
    stored: Option<Value>,
    owner: Owner,
    retry_at: Option<Timestamp>,
    retrying: bool,
    in_outbox: bool,
    event_at: Timestamp,
    lease_end: Option<Timestamp>,
    paused_at: Option<Timestamp>,
    created_at: Timestamp,
    queued_at: Option<Timestamp>,
}

/// Replaces the columns of [`standing_columns`] in a shown run by `waiting_for`.
pub(crate) fn explain(row: &Row, shown: &mut Value) -> Result<(), StoreError> {
    let waiting_for = of_row(row)?;
    if let Some(object) = shown.as_object_mut() {
        object.retain(|name, _| !name.starts_with(HIDDEN));
        object.insert("waiting_for".to_owned(), waiting_for.unwrap_or(Value::Null));
    }
    Ok(())
}

fn of_row(row: &Row) -> Result<Option<Value>, StoreError> {
    if !column::<bool>(row, "w_ours")? {
        return Ok(None);
    }
    let status: &str = column(row, "w_status")?;
    Ok(reason(&Standing {
        status: RunStatus::parse(status).ok_or_else(|| StoreError::row("unknown status"))?,
        stored: column(row, "w_stored")?,
        owner: match (column(row, "w_owned")?, column(row, "w_held")?) {
            (_, true) => Owner::Alive,
            (true, false) => Owner::Lost,
            (false, false) => Owner::Nobody,
        },
        retry_at: column(row, "w_retry_at")?,
        retrying: column(row, "w_retrying")?,
        in_outbox: column(row, "w_in_outbox")?,
        event_at: column(row, "w_event_at")?,
        lease_end: column(row, "w_lease_end")?,
        paused_at: column(row, "w_paused_at")?,
        created_at: column(row, "w_created_at")?,
        queued_at: column(row, "w_queued_at")?,
    }))
}

fn reason(run: &Standing) -> Option<Value> {
    let since = |at: Option<Timestamp>| at.unwrap_or(run.event_at);
    let (what, since) = match run.status {
        status if status.is_final() => return None,
        RunStatus::Created => (
            waiting(WaitKind::User, "not started: send the action start"),
            run.created_at,
        ),
        RunStatus::Paused => {
            // A run that paused itself says why.
            let stored = run.stored.clone();
            let what = stored.unwrap_or_else(|| waiting(WaitKind::User, "paused: send the action resume"));
            (what, since(run.paused_at))
        }
        RunStatus::WaitingUser => {
            let stored = run.stored.clone();
            let what = stored.unwrap_or_else(|| waiting(WaitKind::User, "it asked its user"));
            (what, since(run.paused_at))
        }
        _ if run.owner == Owner::Alive => {
            let what = run.stored.clone().filter(is_sandbox_capacity)?;
            let since = what
                .get("since")
                .and_then(Value::as_str)
                .and_then(|at| at.parse().ok());
            (what, since.unwrap_or(run.event_at))
        }
        _ if run.retrying => {
            let stored = run.stored.clone();
            let mut what = stored.unwrap_or_else(|| waiting(WaitKind::Retry, "an attempt failed"));
            what["until"] = json!(run.retry_at.map(wire_time));
            (what, run.event_at)
        }
        _ if run.owner == Owner::Lost => (
            waiting(WaitKind::Queue, "its worker was lost, another one takes over"),
            since(run.lease_end),
        ),
        _ if run.in_outbox => (
            waiting(WaitKind::Queue, "stored, and on its way into the queue"),
            since(run.queued_at),
        ),
        _ => (waiting(WaitKind::Queue, IN_LINE), since(run.queued_at)),
    };
    let mut what = what;
    what["since"] = json!(wire_time(since));
    Some(what)
}

/// `detail` of a run about which only the queue knows more.
pub const IN_LINE: &str = "in line for a worker";

#[cfg(test)]
mod tests {
    use super::*;
    use domain::StepId;
    use domain::waiting::sandbox_capacity;

    fn standing(status: RunStatus) -> Standing {
        let at = Timestamp::UNIX_EPOCH;
        Standing {
            status,
            stored: None,
            owner: Owner::Nobody,
            retry_at: None,
            retrying: false,
            in_outbox: false,
            event_at: at,
            lease_end: None,
            paused_at: None,
            created_at: at,
            queued_at: None,
        }
    }

    fn kind(run: &Standing) -> Option<String> {
        let what = reason(run)?;
        assert_eq!(what["since"], "1970-01-01T00:00:00.000000Z");
        assert!(!what["detail"].as_str().unwrap_or_default().is_empty(), "{what}");
        Some(what["kind"].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn every_run_that_does_not_move_says_why_and_no_other() {
        for status in RunStatus::ALL {
            let waits = kind(&standing(status)).is_some();
            assert_eq!(waits, !status.is_final(), "{status}");
        }
        let held = Standing {
            owner: Owner::Alive,
            ..standing(RunStatus::Executing)
        };
        assert_eq!(kind(&held), None);
        let lost = Standing {
            owner: Owner::Lost,
            ..held
        };
        assert_eq!(kind(&lost).as_deref(), Some("queue"));
    }

    #[test]
    fn a_step_without_room_is_told_of_while_its_worker_holds_the_run_and_not_afterwards() {
        let stored = sandbox_capacity(StepId(uuid::Uuid::nil()), "1970-01-01T00:00:00.000000Z");
        let held = Standing {
            owner: Owner::Alive,
            stored: Some(stored),
            ..standing(RunStatus::Executing)
        };
        assert_eq!(kind(&held).as_deref(), Some("sandbox_capacity"));
        let let_go = Standing {
            owner: Owner::Nobody,
            ..held.clone()
        };
        assert_eq!(kind(&let_go).as_deref(), Some("queue"));
        let retried = Standing {
            owner: Owner::Alive,
            stored: Some(waiting(WaitKind::Retry, "x")),
            ..held
        };
        assert_eq!(kind(&retried), None);
    }

    #[test]
    fn a_run_that_paused_itself_says_why() {
        let run = Standing {
            stored: Some(waiting(WaitKind::Budget, "the budget is reached")),
            ..standing(RunStatus::Paused)
        };
        assert_eq!(kind(&run).as_deref(), Some("budget"));
        assert_eq!(kind(&standing(RunStatus::Paused)).as_deref(), Some("user"));
    }

    #[test]
    fn a_retry_says_until_when_and_after_what() {
        let run = Standing {
            stored: Some(waiting(WaitKind::ModelBackoff, "overloaded")),
            retrying: true,
            retry_at: Some(Timestamp::UNIX_EPOCH),
            ..standing(RunStatus::Executing)
        };
        let what = reason(&run).unwrap();
        assert_eq!(what["kind"], "model_backoff");
        assert_eq!(what["detail"], "overloaded");
        assert_eq!(what["until"], "1970-01-01T00:00:00.000000Z");
    }
}
