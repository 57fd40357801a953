//! Read views of runs, as JSON objects with wire times. Nothing here writes or locks.

mod effects;
mod events;
mod files;
mod funds;
mod interrupts;
mod lists;
pub(crate) mod rows;
mod views;
mod waiting;

pub use events::{LogPage, LogQuery};
pub use files::{KnownFile, StoredArtifact};
pub use lists::{BadCursor, RunList, RunListQuery};
pub use views::{RunHead, RunParts};
pub use waiting::IN_LINE;

use crate::db::Db;
use domain::ids::UserId;

/// Reads runs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    db: Db,
}

impl Reader {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Sees this user's runs only, whatever it asks for.
    #[must_use]
    pub fn of_user(&self, user: &UserId) -> Self {
        Self::new(self.db.of_user(user))
    }
}
