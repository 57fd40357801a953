//! Making whole what somebody pushed by hand: `LPUSH jobs:pending '{"run_id":"…"}'` is a job too.

use domain::job::{make_traceparent, parse_traceparent};
use domain::{Ids, Job, JobId, RunId};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// Longest raw text kept in a dead letter, in bytes.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
const MAX_PRIORITY: u64 = 9;

/// All a hand-made element must have is a run id; other fields are taken when they make sense.
#[derive(Debug, Deserialize)]
struct Loose {
    run_id: RunId,
    #[serde(default)]
    job_id: Value,
    #[serde(default)]
    retry_count: Value,
    #[serde(default)]
    priority: Value,
    #[serde(default)]
    enqueued_at: Value,
    #[serde(default)]
    traceparent: Value,
}

/// Where and when a hand-made element was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) in_high_priority: bool,
    pub(crate) at: Timestamp,
    /// Used when the text has no job id.
    pub(crate) fresh: JobId,
}

/// A hand-made element as a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) job: Job,
    /// The text had no job id of its own.
    pub(crate) anonymous: bool,
}

fn from_text<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// The job of an element, or nothing when it is not JSON with a valid `run_id`.
pub(crate) fn complete(raw: &[u8], found: Found, ids: &dyn Ids) -> Option<Completed> {
    let loose: Loose = serde_json::from_slice(raw).ok()?;
    let job_id = from_text::<JobId>(&loose.job_id);
    let retry_count = loose
        .retry_count
        .as_u64()
        .and_then(|count| u32::try_from(count).ok())
        .filter(|count| *count < u32::MAX)
        .unwrap_or(0);
    let least = u64::from(found.in_high_priority);
    let priority = loose.priority.as_u64().unwrap_or(0).clamp(least, MAX_PRIORITY);
    let traceparent = loose.traceparent.as_str().and_then(parse_traceparent);
    let job = Job {
        job_id: job_id.unwrap_or(found.fresh),
        run_id: loose.run_id,
        attempt: retry_count + 1,
        retry_count,
        priority: priority as u8,
        enqueued_at: from_text(&loose.enqueued_at).unwrap_or(found.at),
        traceparent: traceparent.map_or_else(|| fresh_traceparent(ids), str::to_owned),
    };
    Some(Completed {
        job,
        anonymous: job_id.is_none(),
    })
}

fn fresh_traceparent(ids: &dyn Ids) -> String {
    let mut seed = [0; 24];
    let (one, two) = (ids.uuid(), ids.uuid());
    seed[..16].copy_from_slice(one.as_bytes());
    seed[16..].copy_from_slice(&two.as_bytes()[8..]);
    make_traceparent(seed)
}

/// The raw text as it is kept in a dead letter.
pub(crate) fn payload(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut end = text.len().min(MAX_PAYLOAD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::clock::CountingIds;
    use uuid::Uuid;

    const RUN: &str = "7a5f0000-0000-4000-8000-000000000001";

    fn found() -> Found {
        Found {
            in_high_priority: false,
            at: Timestamp::UNIX_EPOCH,
            fresh: JobId(Uuid::from_u128(9)),
        }
    }

    fn job_of(raw: &str) -> Option<Completed> {
        complete(raw.as_bytes(), found(), &CountingIds::default())
    }

    #[test]
    fn a_bare_run_id_is_a_whole_job() {
        let done = job_of(&format!(r#"{{"run_id":"{RUN}"}}"#)).unwrap();
        assert!(done.anonymous);
        assert_eq!(done.job.job_id, JobId(Uuid::from_u128(9)));
        assert_eq!(
            (done.job.attempt, done.job.retry_count, done.job.priority),
            (1, 0, 0)
        );
        assert!(parse_traceparent(&done.job.traceparent).is_some());
    }

    #[test]
    fn sound_fields_are_kept_and_silly_ones_are_not() {
        let raw = format!(
            r#"{{"run_id":"{RUN}","job_id":"{RUN}","retry_count":2,"priority":99,"enqueued_at":7,"traceparent":"x","last_error":"e"}}"#
        );
        let done = job_of(&raw).unwrap();
        assert!(!done.anonymous);
        assert_eq!(
            (done.job.attempt, done.job.retry_count, done.job.priority),
            (3, 2, 9)
        );
        assert_eq!(done.job.enqueued_at, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn what_has_no_run_id_is_undecodable() {
        for raw in [
            "",
            "nonsense",
            "{}",
            "[]",
            r#"{"run_id":"x"}"#,
            r#"{"run_id":null}"#,
        ] {
            assert_eq!(job_of(raw), None, "{raw}");
        }
    }
}
