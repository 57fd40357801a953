//! Dead letters: looking, putting back in the line, dropping. They are never trimmed.

use crate::connection::{Patience, measured};
use crate::delivery::text_of;
use crate::error::QueueError;
use crate::keys::ListName;
use crate::queue::Queue;
use crate::reply::arg;
use crate::script;
use domain::{Job, JobId};
use fred::interfaces::ListInterface;
use fred::types::Value;
use serde::Deserialize;

/// Elements read per call.
const PAGE: i64 = 500;

/// An element of `jobs:failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Nothing in an element pushed by hand without one.
    pub job_id: Option<JobId>,
    /// Nothing when it is undecodable.
    pub job: Option<Job>,
    pub reason: Option<String>,
    pub error: Option<String>,
    /// UTC time as it stands in the element.
    pub failed_at: Option<String>,
    /// What was pushed, of an undecodable one.
    pub payload: Option<String>,
    /// The element as it stands in Redis.
    pub raw: Vec<u8>,
}

#[derive(Debug, Default, Deserialize)]
struct Fields {
    job_id: Option<JobId>,
    reason: Option<String>,
    error: Option<String>,
    failed_at: Option<String>,
    payload: Option<String>,
}

fn read(raw: Vec<u8>) -> DeadLetter {
    let fields: Fields = serde_json::from_slice(&raw).unwrap_or_default();
    DeadLetter {
        job: serde_json::from_slice(&raw).ok(),
        job_id: fields.job_id,
        reason: fields.reason,
        error: fields.error,
        failed_at: fields.failed_at,
        payload: fields.payload,
        raw,
    }
}

impl Queue {
    /// Up to `limit` dead letters from `offset`, newest first.
    pub async fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let from = offset as i64;
        let raws = self.failed_elements(from, from + limit as i64 - 1).await?;
        Ok(raws.into_iter().map(read).collect())
    }

    async fn failed_elements(&self, from: i64, to: i64) -> Result<Vec<Vec<u8>>, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let key = self.store.keys().list(ListName::Failed);
        measured("dead_letters", client.lrange(key, from, to)).await
    }

    /// The dead letter of a job.
    pub async fn dead_letter(&self, job_id: &JobId) -> Result<Option<DeadLetter>, QueueError> {
        let mut from = 0;
        loop {
            let raws = self.failed_elements(from, from + PAGE - 1).await?;
            let last = raws.len() < PAGE as usize;
            let mut letters = raws.into_iter().map(read);
            if let Some(found) = letters.find(|letter| letter.job_id.as_ref() == Some(job_id)) {
                return Ok(Some(found));
            }
            if last {
                return Ok(None);
            }
            from += PAGE;
        }
    }

    /// Puts a dead letter back at the end of its line, with its attempts counted from the start. False when it is
    /// not there (any more) or undecodable. Doing it twice puts it back once.
    pub async fn requeue_dead_letter(&self, letter: &DeadLetter) -> Result<bool, QueueError> {
        let Some(job) = &letter.job else {
            return Ok(false);
        };
        self.requeue_dead_letter_as(letter, job).await
    }

    /// As [`Queue::requeue_dead_letter`], with this job in its place, for example of an undecodable one.
    pub async fn requeue_dead_letter_as(&self, letter: &DeadLetter, job: &Job) -> Result<bool, QueueError> {
        let again = Job {
            attempt: 1,
            retry_count: 0,
            ..job.clone()
        };
        let args = vec![
            arg(again.job_id),
            Value::Bytes(letter.raw.clone().into()),
            arg(ListName::home(again.priority).code()),
            arg(text_of(&again)?),
        ];
        Ok(self.store.run(&script::REQUEUE, args).await?.number()? == 1)
    }

    /// Drops a dead letter for good. False when it is not there.
    pub async fn drop_dead_letter(&self, letter: &DeadLetter) -> Result<bool, QueueError> {
        let id = letter.job_id.map_or_else(String::new, |id| id.to_string());
        let args = vec![arg(id), Value::Bytes(letter.raw.clone().into())];
        Ok(self.store.run(&script::DROP, args).await?.number()? == 1)
    }

    /// Puts all decodable dead letters back, eldest first; returns how many. Those that come in meanwhile stay.
    pub async fn requeue_all_dead_letters(&self) -> Result<usize, QueueError> {
        let mut letters = self.all_dead_letters().await?;
        letters.reverse();
        let mut moved = 0;
        for letter in &letters {
            moved += usize::from(self.requeue_dead_letter(letter).await?);
        }
        Ok(moved)
    }

    /// Every dead letter, newest first.
    pub async fn all_dead_letters(&self) -> Result<Vec<DeadLetter>, QueueError> {
        let mut letters = Vec::new();
        loop {
            let from = letters.len() as i64;
            let raws = self.failed_elements(from, from + PAGE - 1).await?;
            let last = raws.len() < PAGE as usize;
            letters.extend(raws.into_iter().map(read));
            if last {
                return Ok(letters);
            }
        }
    }
}
