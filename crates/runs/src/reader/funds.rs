//! What a run may spend and has spent.

use super::Reader;
use crate::budget::{Funds, Of, spent};
use crate::db::tx::query;
use crate::store::StoreError;
use domain::ids::RunId;
use jiff::Timestamp;

impl Reader {
    /// The funds of a run as of `now`; nothing when there is no such run.
    pub async fn funds(&self, run: RunId, now: Timestamp) -> Result<Option<Funds>, StoreError> {
        let rows = query(&self.db, spent(run, now, Of::Any)).await?;
        rows.first().map(Funds::read).transpose()
    }
}
