//! Read views of runs, as JSON objects with wire times. Nothing here writes or locks.

mod effects;
mod events;
mod lists;
pub(crate) mod rows;
mod views;
mod waiting;

pub use events::{LogPage, LogQuery};
pub use lists::{BadCursor, RunList, RunListQuery};
pub use views::{RunHead, RunParts};
pub use waiting::IN_LINE;

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
