//! What runs have spent, and what is set aside of a day's caps for model calls under way.
//!
//! Invariants: spending is summed from token records, steps and status changes, so it holds over attempts and cannot drift;
//! a reservation counts until its turn is stored and only while its claim holds the run; reservations are judged one after
//! the other, so that runs together stay below the caps of a day.

use crate::authority::row::column;
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params, query};
use crate::store::StoreError;
use domain::budget::{Budget, Dimension, Reached, Scope, Spend};
use domain::clock::Clock;
use domain::ids::{RunId, UserId};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use std::sync::Arc;
use tokio_postgres::Row;

/// Any number of ours but that of the migrations: reservations are judged one at a time.
const LOCK_KEY: i64 = 0x6167_656e_745f_6264;

/// `$2`: also of a run without a budget; `$3`: the present time.
const SPENT: &str = "SELECT r.metadata -> 'budget' AS budget, coalesce(t.tokens, 0)::bigint AS tokens,
        coalesce(t.cost, 0)::bigint AS cost_micros, coalesce(t.unpriced, false) AS unpriced,
        coalesce(s.steps, 0)::bigint AS steps, coalesce(s.sandbox, 0)::bigint AS sandbox_ms,
        coalesce(w.worked, 0)::bigint AS worked_ms
    FROM agent_runs r
    LEFT JOIN LATERAL (SELECT sum(input_tokens + output_tokens) AS tokens, sum(cost_usd) * 1000000 AS cost,
            bool_or(cost_usd IS NULL) AS unpriced FROM token_records WHERE run_id = r.id) t ON true
    LEFT JOIN LATERAL (SELECT count(*) AS steps,
            sum(duration_ms) FILTER (WHERE tool_name IN ('shell', 'code')) AS sandbox
        FROM agent_steps WHERE run_id = r.id) s ON true
    LEFT JOIN LATERAL (SELECT sum(greatest(extract(epoch FROM coalesce(until, $3) - since), 0) * 1000) AS worked
        FROM (SELECT created_at AS since, lead(created_at) OVER (ORDER BY seq) AS until,
                metadata ->> 'to_status' AS status
            FROM agent_task_logs WHERE run_id = r.id AND log_type = 'state_transition') AS stays
        WHERE status IN ('planning', 'executing')) w ON true
    WHERE r.id = $1 AND ($2 OR r.metadata ? 'budget')";

const LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

/// Spent and set aside since the day's begin `$1`, of everybody and of user `$2`, without what run `$3` has set aside.
const DAY: &str = "WITH used AS (
        SELECT user_id, input_tokens + output_tokens AS tokens, coalesce(cost_usd, 0) * 1000000 AS cost
          FROM token_records WHERE created_at >= $1
        UNION ALL
        SELECT b.user_id, b.tokens, b.cost_micros FROM budget_reservations b JOIN agent_runs r ON r.id = b.run_id
         WHERE b.run_id <> $3 AND r.fencing_token = b.epoch AND r.lease_expires_at > clock_timestamp()
           AND NOT EXISTS (SELECT FROM agent_turns t WHERE t.run_id = b.run_id AND t.turn = b.turn))
    SELECT coalesce(sum(tokens), 0)::bigint AS tokens, coalesce(sum(cost), 0)::bigint AS cost,
        coalesce(sum(tokens) FILTER (WHERE user_id = $2), 0)::bigint AS user_tokens,
        coalesce(sum(cost) FILTER (WHERE user_id = $2), 0)::bigint AS user_cost
    FROM used";

const RESERVE: &str = "INSERT INTO budget_reservations
        (run_id, epoch, turn, user_id, tokens, cost_micros, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch, turn = excluded.turn, user_id = excluded.user_id,
        tokens = excluded.tokens, cost_micros = excluded.cost_micros, created_at = excluded.created_at";

/// The caps of a run and what it has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funds {
    pub budget: Budget,
    pub spent: Spend,
    /// Some of its model calls have no price, so it cost more than `spent` says.
    pub unpriced: bool,
}

impl Funds {
    pub(crate) fn read(row: &Row) -> Result<Self, StoreError> {
        let spent = Spend::default()
            .with(Dimension::Tokens, column(row, "tokens")?)
            .with(Dimension::Cost, column(row, "cost_micros")?)
            .with(Dimension::Steps, column(row, "steps")?)
            .with(Dimension::Sandbox, column(row, "sandbox_ms")?)
            .with(Dimension::Wall, column(row, "worked_ms")?);
        Ok(Self {
            budget: stored_budget(row)?,
            spent,
            unpriced: column(row, "unpriced")?,
        })
    }
}

/// Column `budget` of a row.
pub(crate) fn stored_budget(row: &Row) -> Result<Budget, StoreError> {
    let budget: Option<Value> = column(row, "budget")?;
    let read = budget.map(|stored| Budget::from_value(&stored)).transpose();
    let read = read.map_err(|fault| StoreError::row(fault.to_string()))?;
    Ok(read.unwrap_or_default())
}

/// Whose funds are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Only of a run with a budget.
    Capped,
    Any,
}

/// Reads the [`Funds`] of a run.
pub(crate) fn spent(run_id: RunId, now: Timestamp, of: Of) -> Statement {
    Statement::new(SPENT, params![run_id.0, of == Of::Any, now])
}

/// Caps of a day (UTC), of a user and of the installation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayCaps {
    pub user: Budget,
    pub all: Budget,
}

impl DayCaps {
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.all.is_empty()
    }

    /// Whether money is capped, so that every call must have a price.
    pub const fn caps_money(&self) -> bool {
        self.user.cap(Dimension::Cost).is_some() || self.all.cap(Dimension::Cost).is_some()
    }
}

/// A model call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Ahead<'a> {
    pub run_id: RunId,
    pub user_id: &'a UserId,
    /// Of the claim that makes it.
    pub epoch: i64,
    pub turn: u32,
    /// The most it may use.
    pub worst: Spend,
}

/// Questions of spending.
#[derive(Debug, Clone)]
pub struct Budgets {
    db: Db,
    clock: Arc<dyn Clock>,
    caps: DayCaps,
}

impl Budgets {
    pub fn new(db: Db, clock: Arc<dyn Clock>, caps: DayCaps) -> Self {
        Self { db, clock, caps }
    }

    pub const fn caps(&self) -> DayCaps {
        self.caps
    }

    /// The funds of a run; nothing when there is no such run.
    pub async fn of_run(&self, run_id: RunId) -> Result<Option<Funds>, StoreError> {
        let rows = query(&self.db, spent(run_id, self.clock.now(), Of::Any)).await?;
        rows.first().map(Funds::read).transpose()
    }

    /// Sets the worst case of a call aside, or says which cap of the day leaves no room for it.
    pub async fn reserve(&self, ahead: Ahead<'_>) -> Result<Option<Reached>, StoreError> {
        if self.caps.is_empty() {
            return Ok(None);
        }
        let now = self.clock.now();
        let zoned = now.to_zoned(TimeZone::UTC);
        let day = zoned.start_of_day().map_or(now, |start| start.timestamp());
        let (run_id, user) = (ahead.run_id.0, ahead.user_id.0.clone());
        // The sum must see what others reserved before they let go of the lock: it is a statement of its own.
        let reads = vec![Statement::new(LOCK, params![LOCK_KEY])];
        let (mut tx, _) = Tx::begin(&self.db, reads).await?;
        let rows = tx
            .read(Statement::new(DAY, params![day, user.clone(), run_id]))
            .await?;
        let row = rows.first().ok_or_else(|| StoreError::row("no sums"))?;
        if let Some(reached) = self.leaves_no_room(row, ahead.worst)? {
            tx.roll_back().await?;
            return Ok(Some(reached));
        }
        let params = params![
            run_id,
            ahead.epoch,
            ahead.turn as i32,
            user,
            ahead.worst.get(Dimension::Tokens),
            ahead.worst.get(Dimension::Cost),
            now
        ];
        tx.commit(vec![Statement::new(RESERVE, params)]).await?;
        Ok(None)
    }

    fn leaves_no_room(&self, sums: &Row, worst: Spend) -> Result<Option<Reached>, StoreError> {
        let used = |tokens, cost| -> Result<Spend, StoreError> {
            Ok(Spend::default()
                .with(Dimension::Tokens, column(sums, tokens)?)
                .with(Dimension::Cost, column(sums, cost)?))
        };
        let of = |caps: Budget, spent, scope| {
            caps.reached(spent, worst)
                .map(|reached| Reached { scope, ..reached })
        };
        let by_user = of(self.caps.user, used("user_tokens", "user_cost")?, Scope::UserDay);
        Ok(by_user.or(of(self.caps.all, used("tokens", "cost")?, Scope::Day)))
    }
}
