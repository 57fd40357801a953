//! The schema, as numbered files of `migrations/`, embedded and applied in order.
//!
//! Own code instead of a migration crate, because what an operator sees is fixed by contract: the SHA-256 of
//! each file in `runtime.schema_migrations`, the text of a mismatch, and the check of required tables.
//! One session-level advisory lock serves all replicas; each file is one transaction with its own row.

use super::{Db, DbOptionsError};
use crate::store::StoreError;
use deadpool_postgres::Object;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use tokio_postgres::error::SqlState;

/// Any number of ours; no other advisory lock is used by this program.
const LOCK_KEY: i64 = 0x6167_656e_745f_7275;

/// One numbered step of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// File name without `.up.sql`, for example `0001_platform`.
    pub version: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

macro_rules! migration {
    ($version:literal) => {
        Migration {
            version: $version,
            up: include_str!(concat!("../../../../migrations/", $version, ".up.sql")),
            down: include_str!(concat!("../../../../migrations/", $version, ".down.sql")),
        }
    };
}

/// All of them, in order; a test compares this list with the folder.
pub const MIGRATIONS: &[Migration] = &[
    migration!("0001_platform"),
    migration!("0002_runtime"),
    migration!("0003_access"),
    migration!("0004_effects"),
    migration!("0005_signing_keys"),
    migration!("0006_tenancy"),
    migration!("0007_workspaces"),
    migration!("0008_interrupts"),
    migration!("0009_budgets"),
];

/// Tables of schema `runtime` that must exist afterwards.
const REQUIRED_TABLES: [&str; 8] = [
    "run_events",
    "projection_checkpoints",
    "run_summaries",
    "projection_drift",
    "workers",
    "worker_events",
    "run_frames",
    "schema_migrations",
];

const BOOTSTRAP: &str = "CREATE SCHEMA IF NOT EXISTS runtime;
CREATE TABLE IF NOT EXISTS runtime.schema_migrations (
    version text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// What [`Db::migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// Versions applied now, in order; empty when there was nothing to do.
    pub applied: Vec<String>,
    /// Versions in force.
    pub total: usize,
}

/// Why the schema could not be brought up to date. The texts are part of the contract.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("migration checksum mismatch for {0}")]
    Checksum(String),
    #[error("required runtime table missing after migrations: {0}")]
    MissingTable(String),
    #[error("migration {version} failed")]
    Failed {
        version: String,
        #[source]
        source: StoreError,
    },
    #[error("database name cannot be used")]
    DatabaseName,
    #[error(transparent)]
    Options(#[from] DbOptionsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MigrationError {
    /// The server could not be reached or was lost; the same call may succeed later.
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Unavailable(_))
                | Self::Failed {
                    source: StoreError::Unavailable(_),
                    ..
                }
        )
    }
}

impl From<tokio_postgres::Error> for MigrationError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Lower-case hex SHA-256 of a file's text.
pub fn checksum(text: &str) -> String {
    domain::canonical::hex(&Sha256::digest(text.as_bytes()))
}

/// Applies what is missing.
pub(super) async fn up(db: &Db, list: &[Migration]) -> Result<MigrationReport, MigrationError> {
    let client = locked(db).await?;
    let outcome = apply_missing(&client, list).await;
    unlocked(client).await;
    let applied = outcome?;
    if !applied.is_empty() {
        db.reconnect();
    }
    Ok(MigrationReport {
        applied,
        total: list.len(),
    })
}

/// Takes every applied migration back, newest first. For tests and for leaving the product.
pub async fn down(db: &Db, list: &[Migration]) -> Result<(), MigrationError> {
    let client = locked(db).await?;
    let outcome = take_back(&client, list).await;
    unlocked(client).await;
    outcome
}

/// A connection of its own that waits for the lock as long as it takes.
async fn locked(db: &Db) -> Result<Object, MigrationError> {
    let client = db.client().await?;
    client
        .batch_execute("RESET ROLE; SET statement_timeout = 0; SET client_min_messages = warning")
        .await?;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY])
        .await?;
    client.batch_execute(BOOTSTRAP).await?;
    Ok(client)
}

/// Closing the connection gives the lock back, whatever state it is in; it does not return to the pool.
async fn unlocked(client: Object) {
    if let Err(error) = client
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK_KEY])
        .await
    {
        tracing::warn!(%error, "migration lock is given back by closing the connection");
    }
    drop(Object::take(client));
}

async fn applied(client: &Object) -> Result<BTreeMap<String, String>, StoreError> {
    let rows = client
        .query("SELECT version, checksum FROM runtime.schema_migrations", &[])
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

async fn apply_missing(client: &Object, list: &[Migration]) -> Result<Vec<String>, MigrationError> {
    let known = applied(client).await?;
    let mut done = Vec::new();
    for migration in list {
        match known.get(migration.version) {
            Some(stored) if *stored == checksum(migration.up) => {}
            Some(_) => return Err(MigrationError::Checksum(migration.version.to_owned())),
            None => {
                apply(client, migration).await?;
                done.push(migration.version.to_owned());
            }
        }
    }
    check_tables(client).await?;
    Ok(done)
}

async fn apply(client: &Object, migration: &Migration) -> Result<(), MigrationError> {
    // Both values are ours: file names and hex digits, so no quoting is needed.
    let script = format!(
        "BEGIN;\n{}\n;INSERT INTO runtime.schema_migrations (version, checksum) VALUES ('{}', '{}');\nCOMMIT",
        migration.up,
        migration.version,
        checksum(migration.up)
    );
    run_script(client, &script, migration.version).await
}

async fn take_back(client: &Object, list: &[Migration]) -> Result<(), MigrationError> {
    let known = applied(client).await?;
    for migration in list
        .iter()
        .rev()
        .filter(|migration| known.contains_key(migration.version))
    {
        let script = format!(
            "BEGIN;\n{}\n;DELETE FROM runtime.schema_migrations WHERE version = '{}';\nCOMMIT",
            migration.down, migration.version
        );
        run_script(client, &script, migration.version).await?;
    }
    Ok(())
}

async fn run_script(client: &Object, script: &str, version: &str) -> Result<(), MigrationError> {
    let Err(error) = client.batch_execute(script).await else {
        return Ok(());
    };
    if let Err(rollback) = client.batch_execute("ROLLBACK").await {
        tracing::warn!(error = %rollback, "rollback of a failed migration failed");
    }
    Err(MigrationError::Failed {
        version: version.to_owned(),
        source: error.into(),
    })
}

async fn check_tables(client: &Object) -> Result<(), MigrationError> {
    let rows = client
        .query(
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'runtime'",
            &[],
        )
        .await?;
    let mut present = Vec::with_capacity(rows.len());
    for row in &rows {
        present.push(row.try_get::<_, String>(0)?);
    }
    match REQUIRED_TABLES
        .iter()
        .find(|name| !present.iter().any(|table| table == *name))
    {
        Some(missing) => Err(MigrationError::MissingTable((*missing).to_owned())),
        None => Ok(()),
    }
}

/// Every migration of the list is applied with the same text.
pub(super) async fn is_current(db: &Db, list: &[Migration]) -> Result<bool, StoreError> {
    let client = db.client().await?;
    let known = match applied(&client).await {
        Ok(known) => known,
        Err(error)
            if matches!(
                error.sql_state(),
                Some(state) if *state == SqlState::UNDEFINED_TABLE || *state == SqlState::INVALID_SCHEMA_NAME
            ) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    Ok(list
        .iter()
        .all(|migration| known.get(migration.version) == Some(&checksum(migration.up))))
}

pub(super) async fn create_database(server: &Db, name: &str) -> Result<bool, MigrationError> {
    if name.is_empty() || name.contains('"') || name.contains('\0') {
        return Err(MigrationError::DatabaseName);
    }
    let client = server.client().await?;
    let found = client
        .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name])
        .await?;
    if found.is_some() {
        return Ok(false);
    }
    match client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await {
        Ok(()) => Ok(true),
        // Another replica was faster.
        Err(error)
            if error.code() == Some(&SqlState::DUPLICATE_DATABASE)
                || error.code() == Some(&SqlState::UNIQUE_VIOLATION) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
