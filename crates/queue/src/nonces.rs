//! Nonces of signed requests: each is used up once, for all processes that share the server.
//!
//! Invariants:
//! - Using a nonce up is one `SET NX` with an expiry, so of parallel requests with one nonce exactly one has it.
//! - The expiry is a duration, not a time: the clocks of this process and of the server need not agree.
//! - A lost answer counts as "cannot say", never as "fresh": the nonce may be spent, the request is not let in.

use crate::connection::{Connection, Patience, measured};
use crate::error::QueueError;
use crate::options::RedisOptions;
use fred::interfaces::KeysInterface;
use fred::types::{Expiration, SetOptions, Value};
use std::sync::Arc;
use std::time::Duration;

/// First part of the keys; not under `QUEUE_PREFIX`, since all that share a server and a secret must share the nonces.
const PREFIX: &str = "runtime:nonce:";
/// Wait for a connection that is just coming up (a start, a reconnect); a server that is away costs a request no more.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// Longest life of a nonce: a token that claims to be good for ever does not fill the server for ever.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// The store of used nonces, over a connection of its own. Cheap clone.
#[derive(Debug, Clone)]
pub struct Nonces(Arc<Connection>);

impl Nonces {
    /// Returns at once, also while Redis is away. Must be called inside a runtime.
    pub fn connect(options: &RedisOptions) -> Result<Self, QueueError> {
        Ok(Self(Arc::new(Connection::open(options, "nonces")?)))
    }

    /// Uses up a nonce for `life`; false when it was used before. `digest` stands for the nonce and has a bounded length.
    pub async fn use_up(&self, digest: &str, life: Duration) -> Result<bool, QueueError> {
        // An error is told by the command itself, with its cause.
        self.0.comes_up_within(CONNECT_PATIENCE).await;
        let seconds = life.clamp(Duration::from_secs(1), LONGEST).as_secs();
        let client = self.0.with(Patience::Brief);
        let key = format!("{PREFIX}{digest}");
        let set = client.set::<Value, _, _>(
            key,
            1,
            Some(Expiration::EX(seconds as i64)),
            Some(SetOptions::NX),
            false,
        );
        let answer = measured("nonce", set).await?;
        self.0.note_answer();
        Ok(!answer.is_null())
    }
}
