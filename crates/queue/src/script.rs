//! The Lua scripts: EVALSHA first, EVAL when the server does not know the script (restart, failover, flush).

use fred::error::Error as FredError;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Key, Value};
use std::sync::LazyLock;

const PRELUDE: &str = include_str!("lua/prelude.lua");

/// One script with the digest the server knows it by.
#[derive(Debug)]
pub(crate) struct Script {
    /// Name in metrics and errors.
    pub(crate) name: &'static str,
    source: String,
    digest: String,
}

impl Script {
    fn new(name: &'static str, body: &str) -> Self {
        let source = format!("{PRELUDE}\n{body}");
        let digest = fred::util::sha1_hash(&source);
        Self { name, source, digest }
    }

    pub(crate) async fn run<C: ClientLike>(
        &self,
        client: &C,
        keys: &[Key],
        args: &[Value],
    ) -> Result<Value, FredError> {
        match call(client, "EVALSHA", &self.digest, (keys, args)).await {
            Err(fault) if crate::error::is_noscript(&fault) => {
                call(client, "EVAL", &self.source, (keys, args)).await
            }
            answer => answer,
        }
    }
}

/// fred's own script commands take no options (timeout, fail fast); the plain command does.
async fn call<C: ClientLike>(
    client: &C,
    command: &'static str,
    script: &str,
    (keys, args): (&[Key], &[Value]),
) -> Result<Value, FredError> {
    // The slot follows from the first key, behind the script and the number of keys.
    let command = CustomCommand::new_static(command, ClusterHash::Offset(2), false);
    let mut all: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
    all.push(Value::from(script));
    all.push(Value::from(keys.len().to_string()));
    all.extend(keys.iter().cloned().map(Value::from));
    all.extend_from_slice(args);
    client.custom(command, all).await
}

macro_rules! scripts {
    ($($constant:ident = $name:literal),+ $(,)?) => {
        $(pub(crate) static $constant: LazyLock<Script> =
            LazyLock::new(|| Script::new($name, include_str!(concat!("lua/", $name, ".lua"))));)+
    };
}

scripts! {
    PUSH = "push",
    PUSH_RETRY = "push_retry",
    CLAIM = "claim",
    REWRITE = "rewrite",
    ACK = "ack",
    RELEASE = "release",
    RENEW = "renew",
    REMOVE = "remove",
    REQUEUE = "requeue",
    DROP = "drop",
    SWEEP = "sweep",
    PRUNE = "prune",
    PAUSE = "pause",
    GLANCE = "glance",
    DISCARD = "discard",
    RESEAT = "reseat",
    EXPIRE = "expire",
}
