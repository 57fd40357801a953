//! Secrets that every replica must share, one row each: made at random by whoever needs one first.
//!
//! Deleting a row and restarting the replicas makes everything invalid that was signed with it.

use crate::api_keys::random_secret;
use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;

/// The row of whoever was first wins; the others read it.
const TAKE: &str = "INSERT INTO signing_keys AS k (name, secret) VALUES ($1, $2)
    ON CONFLICT (name) DO UPDATE SET secret = k.secret RETURNING secret";

/// The table `signing_keys`.
#[derive(Debug, Clone)]
pub struct SigningKeys {
    db: Db,
}

impl SigningKeys {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// The secret of this name; 32 random bytes, the same for everybody from the first call on.
    pub async fn secret(&self, name: &'static str) -> Result<Vec<u8>, StoreError> {
        let params = params![name, random_secret()?.to_vec()];
        let rows = query(&self.db, Statement::new(TAKE, params)).await?;
        let row = rows.first().ok_or_else(|| StoreError::row("no signing key"))?;
        Ok(row.try_get(0)?)
    }
}
