//! The job: what lies in the Redis lists, as JSON an operator can read.

use crate::canonical::hex;
use crate::ids::{JobId, RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A run's entry in the queue. Field order is the order of the text in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub job_id: JobId,
    pub run_id: RunId,
    /// `retry_count` + 1.
    pub attempt: u32,
    pub retry_count: u32,
    /// 0 to 9; above 0 the job goes to the high-priority list.
    pub priority: u8,
    #[serde(with = "crate::clock::wire")]
    pub enqueued_at: Timestamp,
    /// W3C trace context of the request that enqueued the job.
    pub traceparent: String,
}

impl Job {
    /// The same job for its next attempt.
    #[must_use]
    pub fn next_attempt(&self) -> Self {
        let retry_count = self.retry_count + 1;
        Self {
            retry_count,
            attempt: retry_count + 1,
            ..self.clone()
        }
    }
}

/// A W3C `traceparent` of version 00, or nothing when the text is not one.
pub fn parse_traceparent(text: &str) -> Option<&str> {
    let parts: Vec<&str> = text.split('-').collect();
    let lower_hex = |part: &str, len: usize| {
        part.len() == len
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    match parts[..] {
        ["00", trace, span, flags]
            if lower_hex(trace, 32)
                && lower_hex(span, 16)
                && lower_hex(flags, 2)
                && !zero(trace)
                && !zero(span) =>
        {
            Some(text)
        }
        _ => None,
    }
}

/// A fresh `traceparent` from a random 24 byte seed.
pub fn make_traceparent(seed: [u8; 24]) -> String {
    let mut seed = seed;
    seed[0] |= 1;
    seed[16] |= 1;
    format!("00-{}-{}-01", hex(&seed[..16]), hex(&seed[16..]))
}

/// The trace goes on under a new span: same trace id and flags, other parent id.
pub fn child_traceparent(parent: &str, span_seed: [u8; 8]) -> Option<String> {
    parse_traceparent(parent)?;
    let mut span = span_seed;
    span[0] |= 1;
    let span = hex(&span);
    Some(format!("{}-{span}-{}", &parent[..35], &parent[53..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sound_trace_contexts_are_taken() {
        let good = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
        assert_eq!(parse_traceparent(good), Some(good));
        for bad in [
            "",
            "00-0123456789ABCDEF0123456789abcdef-0123456789abcdef-01",
            "00-00000000000000000000000000000000-0123456789abcdef-01",
            "00-0123456789abcdef0123456789abcdef-0000000000000000-01",
            "01-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
            "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01-x",
        ] {
            assert_eq!(parse_traceparent(bad), None, "{bad}");
        }
        assert!(parse_traceparent(&make_traceparent([0; 24])).is_some());
        let child = child_traceparent(good, [0xaa; 8]).unwrap();
        assert_eq!(child, "00-0123456789abcdef0123456789abcdef-abaaaaaaaaaaaaaa-01");
    }
}
