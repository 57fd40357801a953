//! The pool. Cheap to clone, lazy: nothing is contacted before the first use.
//!
//! Every connection gets `idle_in_transaction_session_timeout`, so that a process frozen in the middle of a
//! commit loses the run row's lock before another worker is due to take the run over.

pub mod migrate;
mod options;
mod tls;
pub(crate) mod tx;

pub use options::{DbOptions, DbOptionsError};

use crate::store::{Fault, StoreError};
use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use std::time::Duration;

/// Longest wait for a free or new connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// Longest wait of [`Db::ping`]; readiness must answer within 2 s.
const PING_TIMEOUT: Duration = Duration::from_millis(1900);
/// Below the lease of a worker (9 s), above any pause between two statements of one transaction.
const SESSION_LIMITS: &str = "SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '30s'";

/// A pool of Postgres connections.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
}

impl Db {
    /// Checks the settings; does not contact the server.
    pub fn connect(options: &DbOptions) -> Result<Self, DbOptionsError> {
        let target = options.target()?;
        Self::pool(target, options.pool_size)
    }

    /// A pool of 8 connections to this URL.
    pub fn from_url(url: &str) -> Result<Self, DbOptionsError> {
        Self::connect(&DbOptions::of_url(url))
    }

    fn pool(target: options::Target, size: usize) -> Result<Self, DbOptionsError> {
        let tls = tls::connector(&target.tls)?;
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(target.config, tls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_WAIT))
            .create_timeout(Some(CONNECTION_WAIT))
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    client
                        .batch_execute(SESSION_LIMITS)
                        .await
                        .map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|fault| DbOptionsError::Pool(fault.to_string()))?;
        Ok(Self { pool })
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
        let server = Self::pool(target, 1)?;
        migrate::create_database(&server, &name).await
    }
}
