//! What the reconciler needs to compare Redis with Postgres and to put right what is missing.

use crate::census::{Census, Element, HeldLease};
use crate::connection::{Patience, measured};
use crate::delivery::text_of;
use crate::error::QueueError;
use crate::keys::ListName;
use crate::queue::{PUSH_BATCH, Queue};
use crate::reply::arg;
use crate::script;
use crate::store::Store;
use domain::clock::wire_time;
use domain::{Job, JobId};
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface, ListInterface};
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions};
use jiff::Timestamp;
use std::time::Duration;

/// Ids asked for in one call.
const LOOKUP_BATCH: usize = 1000;
/// Repairs of one script call: each may walk through a long list.
const REPAIR_BATCH: usize = 100;

/// A job Redis knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub job_id: JobId,
    /// The list it is in.
    pub list: ListName,
    /// Nothing when the element is not a whole job (a buried undecodable text, one being claimed just now).
    pub job: Option<Job>,
    /// Number of its present or last claim: it tells whether the job moved since it was read.
    pub epoch: i64,
}

/// A job that waits, with the time it waits for (nothing: it may be claimed at once).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job: Job,
    pub retry_at: Option<Timestamp>,
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

    /// Everything at once, for a check of the whole queue; grows with the queue.
    pub async fn census(&self) -> Result<Census, QueueError> {
        Census::read(&self.store).await
    }

    /// Puts jobs that wait for their retry time into the retry list, where Redis does not know them (after a loss of
    /// data). The number of those that were new.
    pub async fn push_retries(
        &self,
        waiting: &[(Job, Timestamp)],
        last_error: &str,
    ) -> Result<usize, QueueError> {
        let mut fresh = 0;
        for batch in waiting.chunks(PUSH_BATCH) {
            let mut args = Vec::with_capacity(batch.len() * 5);
            for (job, retry_at) in batch {
                let (keep, text) = retry_text(job, *retry_at, last_error)?;
                let home = ListName::home(job.priority);
                args.extend([
                    arg(job.job_id),
                    arg(home.code()),
                    arg(keep),
                    arg(text),
                    arg(due_ms(*retry_at)),
                ]);
            }
            fresh += self.count_done(&script::PUSH_RETRY, args).await?;
        }
        Ok(fresh)
    }

    /// Takes jobs nobody needs any more out of the two lines and the retry list. Held ones, dead letters and those that
    /// moved since they were read stay. Returns how many left.
    pub async fn discard(&self, entries: &[Entry]) -> Result<usize, QueueError> {
        let mut left = 0;
        for batch in entries.chunks(REPAIR_BATCH) {
            let args = batch
                .iter()
                .flat_map(|entry| [arg(entry.job_id), arg(entry.epoch)])
                .collect();
            left += self.count_done(&script::DISCARD, args).await?;
        }
        Ok(left)
    }

    /// Puts waiting jobs into the list where they belong: the retry list until their time, else the front of their
    /// line. Held ones and those that moved since they were read stay. Returns how many moved.
    pub async fn reseat(&self, moves: &[(Entry, Waiting)]) -> Result<usize, QueueError> {
        let mut reseated = 0;
        for batch in moves.chunks(REPAIR_BATCH) {
            let mut args = Vec::with_capacity(batch.len() * 7);
            for (entry, Waiting { job, retry_at }) in batch {
                let (target, keep, text, due) = if let Some(at) = retry_at {
                    let (keep, text) = retry_text(job, *at, "")?;
                    (ListName::Retry, keep, text, due_ms(*at))
                } else {
                    let text = text_of(job)?;
                    (ListName::home(job.priority), text.len(), text, 0)
                };
                args.extend([
                    arg(entry.job_id),
                    arg(entry.epoch),
                    arg(entry.list.code()),
                    arg(target.code()),
                ]);
                args.extend([arg(keep), arg(text), arg(due)]);
            }
            reseated += self.count_done(&script::RESEAT, args).await?;
        }
        Ok(reseated)
    }

    /// Removes an element that somebody pushed by hand. False when it is not there any more.
    pub async fn drop_element(&self, element: &Element) -> Result<bool, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let raw = fred::types::Value::Bytes(element.raw.clone().into());
        let removed: i64 = measured(
            "drop_element",
            client.lrem(self.store.keys().list(element.list), 1, raw),
        )
        .await?;
        Ok(removed == 1)
    }

    /// Ends the lease of a lost worker, so that the next sweep puts its job back. False when it was claimed anew.
    pub async fn expire_lease(&self, lease: &HeldLease) -> Result<bool, QueueError> {
        let args = vec![arg(&lease.job_id), arg(lease.epoch)];
        Ok(self.store.run(&script::EXPIRE, args).await?.number()? == 1)
    }

    /// True for one caller per `period`: what any worker may do, and one is enough to do.
    pub async fn is_my_turn(&self, work: &str, period: Duration) -> Result<bool, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let ttl = Expiration::PX(i64::try_from(period.as_millis()).unwrap_or(i64::MAX));
        let key = self.store.keys().named(&format!("turn:{work}"));
        let set = client.set::<Option<String>, _, _>(key, "1", Some(ttl), Some(SetOptions::NX), false);
        Ok(measured("turn", set).await?.is_some())
    }

    async fn count_done(
        &self,
        script: &script::Script,
        args: Vec<fred::types::Value>,
    ) -> Result<usize, QueueError> {
        let mut done = 0;
        for row in self.store.run(script, args).await?.rows()? {
            done += usize::from(row.number()? == 1);
        }
        Ok(done)
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
    let parts: Vec<&str> = meta.as_deref()?.splitn(4, '|').collect();
    let [epoch, _, list, _] = parts[..] else {
        return None;
    };
    Some(Entry {
        job_id: id.parse().ok()?,
        list: ListName::from_code(list)?,
        epoch: epoch.parse().ok()?,
        job: serde_json::from_slice(body).ok(),
    })
}

/// The element of a job in the retry list, and the bytes of it that are the plain job.
fn retry_text(job: &Job, retry_at: Timestamp, last_error: &str) -> Result<(usize, String), QueueError> {
    let plain = text_of(job)?;
    let keep = plain.len();
    let tail = serde_json::json!({"last_error": last_error, "retry_at": wire_time(retry_at)}).to_string();
    Ok((keep, format!("{},{}", &plain[..keep - 1], &tail[1..])))
}

/// Up to the next millisecond: never early.
fn due_ms(retry_at: Timestamp) -> i64 {
    retry_at.as_microsecond().div_euclid(1000) + 1
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
