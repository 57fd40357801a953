//! The Lua scripts: EVALSHA first, EVAL when the server does not know the script (restart, failover, flush).

use fred::error::Error as FredError;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Key, Value};
use std::collections::HashSet;
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
        let source = with_prelude(body);
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

/// The script behind those paragraphs of the prelude whose names it uses, itself or through them. The rest is left
/// out because a script's functions are made anew in each call, which costs more than most commands do.
fn with_prelude(body: &str) -> String {
    let mut used: HashSet<&str> = words(body).collect();
    let mut parts = vec![body];
    for paragraph in PRELUDE.rsplit("\n\n") {
        if defined_names(paragraph).any(|name| used.contains(name)) {
            used.extend(words(paragraph));
            parts.push(paragraph);
        }
    }
    parts.reverse();
    parts.join("\n\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Of `local function NAME(…)` and `local NAME, NAME = …` at the start of lines.
fn defined_names(paragraph: &str) -> impl Iterator<Item = &str> {
    paragraph
        .lines()
        .filter_map(|line| line.strip_prefix("local "))
        .flat_map(|rest| {
            let names = match rest.strip_prefix("function ") {
                Some(function) => function.split('(').next(),
                None => rest.split('=').next(),
            };
            words(names.unwrap_or_default())
        })
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
    CLAIM_ANY = "claim_any",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_gets_what_it_uses_of_the_prelude_and_no_more() {
        let source = with_prelude("return int(1)");
        assert!(source.contains("local function int("), "{source}");
        assert!(!source.contains("local function iso("), "{source}");
        assert!(!source.contains("'TIME'"), "{source}");
        let source = with_prelude("return take_out(id, m, text)");
        for through_others in ["job_id_of", "RETRY", "LIST", "call"] {
            assert!(
                words(&source).filter(|word| *word == through_others).count() > 1,
                "{through_others}"
            );
        }
        let (definition, use_of_it) = (
            source.find("local function take_from_retry"),
            source.find("take_out(id"),
        );
        assert!(
            definition.is_some() && definition < use_of_it,
            "in the order of the prelude"
        );
    }
}
