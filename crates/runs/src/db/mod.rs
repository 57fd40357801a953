//! The pool. Cheap to clone, lazy: nothing is contacted before the first use.
//!
//! Every connection gets `idle_in_transaction_session_timeout`, so that a process frozen in the middle of a
//! commit loses the run row's lock before another worker is due to take the run over.
//!
//! Every connection acts as role `agent_app`, for the system; what a [`Db`] made by [`Db::of_user`] does, it does for that
//! user, in transactions that say so, and row security shows it that user's rows only.

pub mod migrate;
mod options;
mod tls;
pub(crate) mod tx;

pub use options::{DbOptions, DbOptionsError};

use crate::store::{Fault, StoreError};
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use domain::ids::UserId;
use std::time::Duration;

/// Longest wait for a free or new connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// Longest wait of [`Db::ping`]; readiness must answer within 2 s.
const PING_TIMEOUT: Duration = Duration::from_millis(1900);
/// Below the lease of a worker (9 s), above any pause between two statements of one transaction.
const SESSION_LIMITS: &str = "SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '30s'";
/// A schema that is older than row security has no role to take; a connection made before it is replaced after it.
const SESSION_ACTOR: &str = "SET app.actor = 'system';
DO $$ BEGIN
    IF to_regprocedure('runtime.take_app_role()') IS NOT NULL THEN PERFORM runtime.take_app_role(); END IF;
END $$";

/// A pool of Postgres connections.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    /// Whose rows are seen; all of them when nobody's.
    user: Option<UserId>,
}

impl Db {
    /// Checks the settings; does not contact the server.
    pub fn connect(options: &DbOptions) -> Result<Self, DbOptionsError> {
        let target = options.target()?;
        Self::pool(target, options.pool_size, true)
    }

    /// A pool of 8 connections to this URL.
    pub fn from_url(url: &str) -> Result<Self, DbOptionsError> {
        Self::connect(&DbOptions::of_url(url))
    }

    fn pool(target: options::Target, size: usize, as_app: bool) -> Result<Self, DbOptionsError> {
        let tls = tls::connector(&target.tls)?;
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(target.config, tls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_WAIT))
            .create_timeout(Some(CONNECTION_WAIT))
            .post_create(Hook::async_fn(move |client, _| {
                Box::pin(async move {
                    let actor = if as_app { SESSION_ACTOR } else { "" };
                    client
                        .batch_execute(&format!("{SESSION_LIMITS};{actor}"))
                        .await
                        .map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|fault| DbOptionsError::Pool(fault.to_string()))?;
        Ok(Self { pool, user: None })
    }

    /// The same pool, seeing and changing this user's rows only.
    #[must_use]
    pub fn of_user(&self, user: &UserId) -> Self {
        Self {
            pool: self.pool.clone(),
            user: Some(user.clone()),
        }
    }

    pub(crate) fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Idle connections go; new ones find the schema as it is now.
    fn reconnect(&self) {
        self.pool.retain(|_, _| false);
    }

    /// A connection from the pool.
    pub(crate) async fn client(&self) -> Result<Object, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// Asks the server for an answer, for at most 1.9 s.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let asked = async {
            self.client().await?.batch_execute("SELECT 1").await?;
            Ok(())
        };
        let late = |_| {
            Err(StoreError::Unavailable(Fault::Slow(
                PING_TIMEOUT.as_millis() as u64
            )))
        };
        tokio::time::timeout(PING_TIMEOUT, asked)
            .await
            .unwrap_or_else(late)
    }

    /// Applies what is missing of [`migrate::MIGRATIONS`]; safe to repeat and to run in parallel.
    pub async fn migrate(&self) -> Result<migrate::MigrationReport, migrate::MigrationError> {
        migrate::up(self, migrate::MIGRATIONS).await
    }

    /// Every migration is applied, unchanged.
    pub async fn schema_is_current(&self) -> Result<bool, StoreError> {
        migrate::is_current(self, migrate::MIGRATIONS).await
    }

    /// Makes the database of the settings when the server does not have it yet; `true` when made.
    pub async fn create_database(options: &DbOptions) -> Result<bool, migrate::MigrationError> {
        let mut target = options.target()?;
        let name = target.config.get_dbname().unwrap_or("postgres").to_owned();
        target.config.dbname("postgres");
        let server = Self::pool(target, 1, false)?;
        migrate::create_database(&server, &name).await
    }
}
