//! Read views of runs, as JSON objects with wire times. Nothing here writes or locks.

mod events;
mod lists;
pub(crate) mod rows;
mod views;

pub use events::{LogPage, LogQuery};
pub use lists::{BadCursor, RunList, RunListQuery};
pub use views::{RunHead, RunParts};

use crate::db::Db;

/// Reads runs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    db: Db,
}

impl Reader {
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}
