//! Balances. Steps are charged by the authority in the transaction that settles them; here is the reading side.

use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::{RunId, UserId};

const GRANT: &str = "INSERT INTO credit_balances (user_id, available_credits, updated_at)
    VALUES ($1, $2::float8::numeric, now()) ON CONFLICT (user_id) DO NOTHING";
const BALANCE: &str = "SELECT available_credits::float8 FROM credit_balances WHERE user_id = $1";

/// Runs of admins go on without credits, and runs that belong to nobody have no balance.
const MAY_GO_ON: &str = "SELECT r.user_id IS NULL OR r.metadata -> 'credits_exempt' = 'true'::jsonb
        OR coalesce(b.available_credits, 0) > 0
    FROM agent_runs r LEFT JOIN credit_balances b ON b.user_id = r.user_id WHERE r.id = $1";

/// The table `credit_balances`.
#[derive(Debug, Clone)]
pub struct Credits {
    db: Db,
}

impl Credits {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Gives a user without a row this many credits, if above 0 (`CREDITS_INITIAL_GRANT`).
    pub async fn grant_initial(&self, user: &UserId, credits: f64) -> Result<(), StoreError> {
        if credits <= 0.0 {
            return Ok(());
        }
        query(&self.db, Statement::new(GRANT, params![user.0.clone(), credits]))
            .await
            .map(drop)
    }

    /// Whether a run may take another turn.
    pub async fn may_go_on(&self, run: RunId) -> Result<bool, StoreError> {
        let rows = query(&self.db, Statement::new(MAY_GO_ON, params![run.0])).await?;
        let answer: Option<bool> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        Ok(answer.unwrap_or(false))
    }

    /// Available credits; 0 without a row.
    pub async fn balance(&self, user: &UserId) -> Result<f64, StoreError> {
        let rows = query(&self.db, Statement::new(BALANCE, params![user.0.clone()])).await?;
        rows.first().map_or(Ok(0.0), |row| Ok(row.try_get(0)?))
    }
}
