//! API keys: `sk_agent_` and 43 base64url characters (32 random bytes). The database holds only the SHA-256
//! and the first 12 characters.

use crate::authority::batch::to_micros;
use crate::authority::row::column;
use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::{Fault, StoreError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::canonical::hex;
use domain::clock::{Clock, Ids};
use domain::ids::UserId;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use tokio_postgres::Row;
use uuid::Uuid;

/// What every key starts with.
pub const KEY_PREFIX: &str = "sk_agent_";
/// Characters of a key that are kept to recognise it by.
const SHOWN_CHARS: usize = 12;
/// Random bytes of a key.
const SECRET_BYTES: usize = 32;

const INSERT: &str = "INSERT INTO api_keys (id, user_id, name, key_prefix, key_hash, role, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    RETURNING id, user_id, name, key_prefix, role, created_at, last_used_at, revoked_at";
const LIST: &str = "SELECT id, user_id, name, key_prefix, role, created_at, last_used_at, revoked_at
    FROM api_keys ORDER BY created_at, id";
const REVOKE: &str = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING id";
/// `last_used_at` is kept to the minute, so that a busy key does not write with every request.
const LOOKUP: &str = "WITH touched AS (
        UPDATE api_keys SET last_used_at = $2::timestamptz
         WHERE key_hash = $1 AND revoked_at IS NULL
           AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '1 minute'))
    SELECT id, user_id, name, key_prefix, role, created_at, last_used_at, revoked_at
      FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL";

/// A stored key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: Uuid,
    pub user_id: UserId,
    pub name: String,
    /// First 12 characters.
    pub key_prefix: String,
    pub is_admin: bool,
    pub created_at: Timestamp,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// A key just made; the only time its text is known.
#[derive(Clone)]
pub struct NewApiKey {
    pub key: String,
    pub stored: ApiKey,
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewApiKey")
            .field("stored", &self.stored)
            .finish_non_exhaustive()
    }
}

/// The table `api_keys`.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

fn hash(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

/// Unpredictable bytes for a secret.
pub(crate) fn random_secret() -> Result<[u8; SECRET_BYTES], StoreError> {
    let mut secret = [0u8; SECRET_BYTES];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut secret)
        .map_err(|_| StoreError::Unavailable(Fault::Row("no randomness from the system".to_owned())))?;
    Ok(secret)
}

fn read(row: &Row) -> Result<ApiKey, StoreError> {
    let role: &str = column(row, "role")?;
    Ok(ApiKey {
        id: column(row, "id")?,
        user_id: UserId(column(row, "user_id")?),
        name: column(row, "name")?,
        key_prefix: column(row, "key_prefix")?,
        is_admin: role == "admin",
        created_at: column(row, "created_at")?,
        last_used_at: column(row, "last_used_at")?,
        revoked_at: column(row, "revoked_at")?,
    })
}

impl ApiKeys {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { db, clock, ids }
    }

    /// Makes a key.
    pub async fn create(&self, user: &UserId, name: &str, is_admin: bool) -> Result<NewApiKey, StoreError> {
        let secret = random_secret()?;
        let key = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let shown: String = key.chars().take(SHOWN_CHARS).collect();
        let role = if is_admin { "admin" } else { "user" };
        let now = to_micros(self.clock.now());
        let params = params![
            self.ids.uuid(),
            user.0.clone(),
            name.to_owned(),
            shown,
            hash(&key),
            role,
            now
        ];
        let rows = query(&self.db, Statement::new(INSERT, params)).await?;
        let row = rows.first().ok_or_else(|| StoreError::row("no key row"))?;
        Ok(NewApiKey {
            key,
            stored: read(row)?,
        })
    }

    /// All keys, oldest first, revoked ones included.
    pub async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        query(&self.db, Statement::new(LIST, vec![]))
            .await?
            .iter()
            .map(read)
            .collect()
    }

    /// Revokes a key, for ever; `false` when there is none. Revoking again changes nothing.
    pub async fn revoke(&self, id: Uuid) -> Result<bool, StoreError> {
        let now = to_micros(self.clock.now());
        Ok(!query(&self.db, Statement::new(REVOKE, params![id, now]))
            .await?
            .is_empty())
    }

    /// The stored key of this text, unless unknown or revoked. Compared by hash, so timing tells nothing.
    pub async fn lookup(&self, key: &str) -> Result<Option<ApiKey>, StoreError> {
        let now = to_micros(self.clock.now());
        let rows = query(&self.db, Statement::new(LOOKUP, params![hash(key), now])).await?;
        rows.first().map(read).transpose()
    }
}
