//! How the store fails, told apart by what a caller can do: wait and try again, or report a bug.

use tokio_postgres::error::SqlState;

/// A failed exchange with Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Cannot be reached, is starting or stopping, or gave up for now; the same call may succeed later.
    #[error("run store is unavailable")]
    Unavailable(#[source] Fault),
    /// Refused a statement, or holds a row we cannot read.
    #[error("run store failed")]
    Database(#[source] Fault),
}

/// What exactly went wrong; for logs only.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("postgres statement failed")]
    Postgres(#[source] tokio_postgres::Error),
    #[error("no connection from the pool")]
    Pool(#[source] Box<deadpool_postgres::PoolError>),
    #[error("no answer within {0} ms")]
    Slow(u64),
    #[error("unreadable or inconsistent row: {0}")]
    Row(String),
}

impl StoreError {
    /// A row that should not look like this.
    pub(crate) fn row(reason: impl Into<String>) -> Self {
        Self::Database(Fault::Row(reason.into()))
    }

    /// The SQLSTATE, when the server sent one.
    pub(crate) fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Unavailable(Fault::Postgres(error)) | Self::Database(Fault::Postgres(error)) => {
                error.code()
            }
            _ => None,
        }
    }
}

impl Fault {
    /// The store answers and takes no writes: somebody froze it, or this is a standby.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION))
    }
}

/// Worth another try: connection trouble, shutdown, limits, deadlock victims, a store that was made read-only.
fn transient(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        return !is_client_fault(error);
    };
    let class = state.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57" | "40")
        || *state == SqlState::LOCK_NOT_AVAILABLE
        || *state == SqlState::READ_ONLY_SQL_TRANSACTION
        || *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}

/// Errors without SQLSTATE are transport errors, except those of our own parameters and columns.
fn is_client_fault(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error serializing parameter")
        || text.starts_with("error deserializing column")
        || text.starts_with("invalid column")
        || text.starts_with("query returned an unexpected number of rows")
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if transient(&error) {
            Self::Unavailable(Fault::Postgres(error))
        } else {
            Self::Database(Fault::Postgres(error))
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Unavailable(Fault::Pool(Box::new(error)))
    }
}
