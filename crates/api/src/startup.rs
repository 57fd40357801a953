//! Why a start fails, and the preparation of the store.

use crate::error::chain;
use bootstrap::settings::exit;
use queue::QueueError;
use runs::{Db, DbOptionsError, MigrationError};
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries to prepare the store.
const STORE_AGAIN: Duration = Duration::from_millis(300);

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("database settings cannot be used")]
    Database(#[from] DbOptionsError),
    #[error("redis settings cannot be used")]
    Redis(#[from] QueueError),
    #[error("address {0} is unavailable")]
    Address(String, #[source] io::Error),
    #[error("signals cannot be handled")]
    Signals(#[source] io::Error),
    #[error("database was not usable in time")]
    Store(#[source] MigrationError),
    #[error("database schema is older than this program, and DB_AUTO_MIGRATE is false")]
    Schema,
    #[error("database schema does not fit this program")]
    Migration(#[source] MigrationError),
}

impl StartError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Database(_) | Self::Redis(_) => exit::SETTINGS,
            Self::Address(..) | Self::Store(_) | Self::Schema => exit::UNAVAILABLE,
            Self::Signals(_) | Self::Migration(_) => exit::INTERNAL,
        }
    }
}

/// Brings the schema up to date, or checks it, until the deadline.
#[derive(Debug)]
pub struct StorePreparation {
    pub db: Db,
    pub migrate: bool,
    pub deadline: Instant,
}

impl StorePreparation {
    /// Returns when the schema is the one of this program.
    pub async fn prepare(&self) -> Result<(), StartError> {
        loop {
            let error = match self.try_once().await {
                Err(StartError::Store(error)) => error,
                decided => return decided,
            };
            if Instant::now() >= self.deadline {
                return Err(StartError::Store(error));
            }
            tracing::warn!(error = %chain(&error), "database is not usable yet");
            tokio::time::sleep(STORE_AGAIN).await;
        }
    }

    async fn try_once(&self) -> Result<(), StartError> {
        if self.migrate {
            return match self.db.migrate().await {
                Ok(report) => {
                    tracing::info!(applied = report.applied.len(), "schema is current");
                    Ok(())
                }
                Err(error) if error.is_unavailable() => Err(StartError::Store(error)),
                Err(error) => Err(StartError::Migration(error)),
            };
        }
        match self.db.schema_is_current().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StartError::Schema),
            Err(error) => Err(StartError::Store(error.into())),
        }
    }
}
