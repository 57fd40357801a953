//! The shared handle behind [`crate::Queue`], [`crate::Delivery`] and [`crate::Maintenance`].

use crate::connection::{Connection, Patience};
use crate::error::QueueError;
use crate::keys::Keys;
use crate::options::RedisOptions;
use crate::reply::Reply;
use crate::script::Script;
use fred::types::Value;
use std::sync::Arc;

/// One command client and the key names; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    keys: Keys,
}

impl Store {
    pub(crate) fn open(options: &RedisOptions, role: &'static str) -> Result<Self, QueueError> {
        let connection = Connection::open(options, role)?;
        let keys = Keys::new(options.prefix());
        Ok(Self(Arc::new(Inner { connection, keys })))
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(crate) async fn run(&self, script: &Script, args: Vec<Value>) -> Result<Reply, QueueError> {
        self.run_within(script, args, Patience::Normal).await
    }

    pub(crate) async fn run_within(
        &self,
        script: &Script,
        args: Vec<Value>,
        patience: Patience,
    ) -> Result<Reply, QueueError> {
        let (keys, args) = (self.keys().all(), args.as_slice());
        let value = self.connection().script(script, keys, args, patience).await?;
        Ok(Reply::new(script.name, value))
    }
}
