//! Making runs: create and retry, once per idempotency key.

use super::{CommandError, Committed, Created, IdempotencyKey, NewRun, Orchestration, RunRules};
use crate::authority::batch::to_micros;
use crate::authority::create::{self, Creation, Extras};
use crate::authority::row::RunRow;
use crate::budget::stored_budget;
use crate::db::tx::{self, Statement, Tx, params};
use crate::figures;
use crate::restore::stored_servers;
use crate::store::StoreError;
use domain::decide::Rejection;
use domain::event::Event;
use domain::ids::{RunId, UserId};
use domain::job::Job;
use domain::run::Origin;
use domain::run::RunState;
use domain::status::RunStatus;
use jiff::SignedDuration;
use serde_json::{Value, json};

/// An idempotency key is forgotten after this long.
const IDEMPOTENCY_TTL: SignedDuration = SignedDuration::from_hours(24);

/// Takes the key, also an expired one; no row when it is taken. Waits for a transaction that is just taking it.
const TAKE_KEY: &str = "INSERT INTO agent_idempotency AS i (user_id, key, request_hash, answer, created_at)
    VALUES ($1, $2, $3, 'null', $4)
    ON CONFLICT (user_id, key) DO UPDATE
        SET request_hash = excluded.request_hash, answer = 'null', created_at = excluded.created_at
        WHERE i.created_at <= $5
    RETURNING true";
const READ_KEY: &str = "SELECT request_hash, answer FROM agent_idempotency WHERE user_id = $1 AND key = $2";
const REPLAYED: &str = "SELECT request_hash, answer FROM agent_idempotency
    WHERE user_id = $1 AND key = $2 AND created_at > $3";
const STORE_ANSWER: &str = "UPDATE agent_idempotency SET answer = $3 WHERE user_id = $1 AND key = $2";

const RETRY_SOURCE: &str =
    "SELECT r.status, r.origin, r.prompt, r.priority, r.metadata ->> 'project_id' AS project_id, r.metadata -> 'budget' AS budget,
        r.metadata -> 'policy' AS policy, r.metadata @> '{\"plan_only\": true}' AS plan_only,
        r.metadata -> 'mcp_servers' AS mcp_servers,
        coalesce((SELECT array_agg(c.connector_id ORDER BY c.position) FROM agent_run_connectors c
                   WHERE c.run_id = r.id), '{}') AS connector_ids
    FROM agent_runs r WHERE r.id = $1 AND r.user_id = $2";

/// What a retry changes; nothing keeps what the failed run had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryEdits {
    /// Not blank.
    pub prompt: Option<String>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Begin with the files of the failed run.
    pub copy_workspace: bool,
}

impl Orchestration {
    /// Makes a run. Of simultaneous calls with one key one makes it, the others get its answer.
    pub async fn create(&self, new: NewRun, key: Option<IdempotencyKey>) -> Result<Created, CommandError> {
        let Some(key) = key else {
            let creation = create::platform_run(&new, self.context(), self.extras());
            let written = tx::write(&self.db, creation.statements).await;
            written.inspect_err(|_| figures::commit_failed())?;
            return Ok(created(creation.run, creation.events, creation.job));
        };
        let reads = vec![self.take_key(&new.user_id, &key)];
        let (mut tx, taken) = Tx::begin(&self.db, reads).await?;
        if let Some([]) = taken.first().map(Vec::as_slice) {
            let answer = replay(&mut tx, &new.user_id, &key).await;
            tx.roll_back().await?;
            return answer.map(|answer| Created::Replayed { answer });
        }
        let Creation {
            mut statements,
            run,
            events,
            job,
        } = create::platform_run(&new, self.context(), self.extras());
        let params = params![new.user_id.0.clone(), key.key, answer(&run.state)];
        statements.push(Statement::new(STORE_ANSWER, params));
        tx.commit(statements)
            .await
            .inspect_err(|_| figures::commit_failed())?;
        Ok(created(run, events, job))
    }

    /// The answer of an earlier request with this key, if there was one.
    pub async fn replayed(&self, user: &UserId, key: &IdempotencyKey) -> Result<Option<Value>, CommandError> {
        let now = to_micros(self.clock.now());
        let expired = now.checked_sub(IDEMPOTENCY_TTL).unwrap_or(now);
        let params = params![user.0.clone(), key.key.clone(), expired];
        let rows = tx::query(&self.db, Statement::new(REPLAYED, params)).await?;
        rows.first().map(|row| same_request(row, key)).transpose()
    }

    fn extras(&self) -> Extras<'_> {
        Extras {
            exempt: self.exempt,
            budget: self.budget,
            mcp_servers: self.mcp_servers.as_deref(),
        }
    }

    fn take_key(&self, user: &UserId, key: &IdempotencyKey) -> Statement {
        let now = to_micros(self.clock.now());
        let expired = now.checked_sub(IDEMPOTENCY_TTL).unwrap_or(now);
        let params = params![
            user.0.clone(),
            key.key.clone(),
            key.request_hash.clone(),
            now,
            expired
        ];
        Statement::new(TAKE_KEY, params)
    }

    /// A new run of a failed run's prompt, project, connectors and priority, queued at once.
    /// `max_retries` is for the new run.
    pub async fn retry(
        &self,
        owner: &UserId,
        failed: RunId,
        key: Option<IdempotencyKey>,
        origin: (&str, u32),
    ) -> Result<Created, CommandError> {
        self.retry_edited(owner, (failed, RetryEdits::default()), key, origin)
            .await
    }

    /// As [`Orchestration::retry`], with another prompt or priority, or with its files.
    pub async fn retry_edited(
        &self,
        owner: &UserId,
        (failed, edits): (RunId, RetryEdits),
        key: Option<IdempotencyKey>,
        (traceparent, max_retries): (&str, u32),
    ) -> Result<Created, CommandError> {
        let read = Statement::new(RETRY_SOURCE, params![failed.0, owner.0.clone()]);
        let rows = crate::db::tx::query(&self.db, read).await?;
        let row = rows.first().ok_or(CommandError::NotFound)?;
        let status = RunStatus::parse(row.try_get("status").map_err(StoreError::from)?)
            .ok_or_else(|| StoreError::row("unknown status"))?;
        // A run driven from outside is its driver's to repeat.
        let origin: &str = row.try_get("origin").map_err(StoreError::from)?;
        if status != RunStatus::Failed || origin != Origin::AgentApi.as_str() {
            return Err(Rejection::Transition {
                action: "retry",
                status,
            }
            .into());
        }
        let priority: i32 = row.try_get("priority").map_err(StoreError::from)?;
        let new = NewRun {
            user_id: owner.clone(),
            prompt: match edits.prompt {
                Some(prompt) => prompt,
                None => row.try_get("prompt").map_err(StoreError::from)?,
            },
            connector_ids: row.try_get("connector_ids").map_err(StoreError::from)?,
            project_id: row.try_get("project_id").map_err(StoreError::from)?,
            priority: edits.priority.unwrap_or(priority as u8),
            auto_start: true,
            retry_of: Some(failed),
            copy_workspace: edits.copy_workspace,
            rules: RunRules {
                policy: row.try_get("policy").map_err(StoreError::from)?,
                plan_only: row.try_get("plan_only").map_err(StoreError::from)?,
            },
            traceparent: traceparent.to_owned(),
            max_retries,
        };
        // The new run may spend as much as the one it repeats.
        self.with_budget(stored_budget(row)?)
            .with_mcp_servers(stored_servers(row)?)
            .create(new, key)
            .await
    }
}

fn created(run: RunRow, events: Vec<Event>, job: Option<Job>) -> Created {
    Created::New(Committed {
        run: run.state,
        events,
        enqueue: job,
        remove_job: None,
        retry_job: None,
    })
}

/// The answer of a create, stored under its key.
fn answer(run: &RunState) -> Value {
    let message = match run.status {
        RunStatus::Created => "Agent run created",
        _ => "Agent run created and queued for processing",
    };
    json!({"run_id": run.id, "status": run.status, "message": message, "plan": null})
}

async fn replay(tx: &mut Tx, user: &UserId, key: &IdempotencyKey) -> Result<Value, CommandError> {
    let rows = tx
        .read(Statement::new(READ_KEY, params![user.0.clone(), key.key.clone()]))
        .await?;
    let row = rows
        .first()
        .ok_or_else(|| StoreError::row("idempotency key vanished"))?;
    same_request(row, key)
}

/// The stored answer, when it was given to the same body.
fn same_request(row: &tokio_postgres::Row, key: &IdempotencyKey) -> Result<Value, CommandError> {
    let hash: String = row.try_get(0).map_err(StoreError::from)?;
    if hash != key.request_hash {
        return Err(CommandError::IdempotencyConflict);
    }
    Ok(row.try_get(1).map_err(StoreError::from)?)
}
