//! What the reconciler needs to compare Redis with Postgres and to put right what is missing.

use crate::connection::{Patience, measured};
use crate::error::QueueError;
use crate::keys::ListName;
use crate::queue::Queue;
use crate::reply::arg;
use crate::store::Store;
use domain::{Job, JobId};
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface};
use fred::types::{ClusterHash, CustomCommand};

/// Ids asked for in one call.
const LOOKUP_BATCH: usize = 1000;

/// A job Redis knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub job_id: JobId,
    /// The list it is in.
    pub list: ListName,
    /// Nothing when the element is not a whole job (a buried undecodable text, one being claimed just now).
    pub job: Option<Job>,
}

/// One page of all jobs; ask again with `cursor` until it is `None`. A job may appear twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    pub cursor: Option<String>,
}

impl Queue {
    /// Those of the ids that Redis does not know.
    pub async fn missing(&self, job_ids: &[JobId]) -> Result<Vec<JobId>, QueueError> {
        let mut missing = Vec::new();
        for batch in job_ids.chunks(LOOKUP_BATCH) {
            let client = self.store.connection().with(Patience::Normal);
            let fields: Vec<String> = batch.iter().map(ToString::to_string).collect();
            let lookup = client.hmget(self.store.keys().named("meta"), fields);
            let known: Vec<Option<String>> = measured("missing", lookup).await?;
            let absent = batch.iter().zip(known).filter(|(_, meta)| meta.is_none());
            missing.extend(absent.map(|(id, _)| *id));
        }
        Ok(missing)
    }

    /// A page of all jobs Redis knows, in no order. Start with `None`.
    pub async fn entries(&self, cursor: Option<&str>, count: usize) -> Result<Page, QueueError> {
        let (next, bodies) = scan_hash(&self.store, "body", cursor.unwrap_or("0"), count).await?;
        let cursor = (next != "0").then_some(next);
        if bodies.is_empty() {
            return Ok(Page {
                entries: Vec::new(),
                cursor,
            });
        }
        let ids: Vec<String> = bodies.iter().map(|(id, _)| id.clone()).collect();
        let client = self.store.connection().with(Patience::Normal);
        let lookup = client.hmget(self.store.keys().named("meta"), ids);
        let metas: Vec<Option<String>> = measured("entries", lookup).await?;
        let entries = bodies.iter().zip(&metas).filter_map(read_entry).collect();
        Ok(Page { entries, cursor })
    }

    /// The id of Redis' present data set, or nothing: its change or absence means that Redis lost its data.
    pub async fn incarnation(&self) -> Result<Option<String>, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        measured("incarnation", client.get(self.store.keys().named("incarnation"))).await
    }

    /// Sets the id when there is none; returns the one that counts.
    pub async fn set_incarnation(&self, id: &str) -> Result<String, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let key = self.store.keys().named("incarnation");
        let set =
            client.set::<fred::types::Value, _, _>(&key, id, None, Some(fred::types::SetOptions::NX), false);
        measured("incarnation", set).await?;
        let present: Option<String> = measured("incarnation", client.get(&key)).await?;
        present.ok_or(QueueError::Unexpected {
            operation: "incarnation",
        })
    }
}

fn read_entry(((id, body), meta): (&(String, Vec<u8>), &Option<String>)) -> Option<Entry> {
    let list = meta.as_deref()?.split('|').nth(2)?;
    Some(Entry {
        job_id: id.parse().ok()?,
        list: ListName::from_code(list)?,
        job: serde_json::from_slice(body).ok(),
    })
}

/// A page of a hash: the next cursor ("0" at the end) and field-value pairs.
pub(crate) async fn scan_hash(
    store: &Store,
    suffix: &str,
    cursor: &str,
    count: usize,
) -> Result<(String, Vec<(String, Vec<u8>)>), QueueError> {
    let command = CustomCommand::new_static("HSCAN", ClusterHash::FirstKey, false);
    let key = store.keys().named(suffix);
    let args = vec![arg(key), arg(cursor), arg("COUNT"), arg(count)];
    let client = store.connection().with(Patience::Normal);
    let value = measured("scan", client.custom(command, args)).await?;
    let [next, flat] = crate::reply::Reply::new("scan", value).tuple()?;
    let mut pairs = Vec::new();
    let mut flat = flat.rows()?.into_iter();
    while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((field.text()?, value.bytes()?));
    }
    Ok((next.text()?, pairs))
}

/// The job id at the start of an element of ours, as `lua/prelude.lua` finds it.
pub(crate) fn job_id_in(text: &[u8]) -> Option<String> {
    const ID_LEN: usize = 36;
    let rest = text.strip_prefix(b"{\"job_id\":\"")?;
    let id = std::str::from_utf8(rest.get(..ID_LEN)?).ok()?;
    id.parse::<JobId>().ok()?;
    Some(id.to_owned())
}
