//! Receipt and replay of a run: what proves, and what plays back, all that happened in it.
//!
//! Pure texts made from the stored run and its events, so that they are the same bytes at every call. The pieces
//! are made event by event: a run of any length needs the memory of one event.

use crate::canonical::{canonical, payload_hash};
use crate::clock::record_time;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Of a run whose metadata names none.
const DEFAULT_POLICY: &str = "runtime.default";

/// A stored event as receipts and replays see it.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    pub seq: i64,
    pub event_type: &'a str,
    pub payload: &'a Value,
    pub idempotency_key: Option<&'a str>,
    pub recorded_at: Timestamp,
}

/// The run the events belong to.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    pub run_id: &'a str,
    pub policy_bundle_id: &'a str,
    pub created_at: Timestamp,
}

/// `metadata.policy_bundle_id` if it is text, else `runtime.default`.
pub fn policy_bundle_id(metadata: &Value) -> &str {
    metadata
        .get("policy_bundle_id")
        .and_then(Value::as_str)
        .unwrap_or(DEFAULT_POLICY)
}

/// The hash over the canonical array of all events, fed one by one.
#[derive(Debug, Clone, Default)]
pub struct Trajectory {
    hasher: Sha256,
    count: i64,
    first_seq: Option<i64>,
    last_seq: Option<i64>,
}

impl Trajectory {
    pub fn add(&mut self, event: &Recorded<'_>) {
        let item = json!({
            "seq": event.seq,
            "event_type": event.event_type,
            "payload": event.payload,
            "idempotency_key": event.idempotency_key,
            "recorded_at": record_time(event.recorded_at),
        });
        self.hasher.update(if self.count == 0 { "[" } else { "," });
        self.hasher.update(canonical(&item));
        self.count += 1;
        self.first_seq = self.first_seq.or(Some(event.seq));
        self.last_seq = Some(event.seq);
    }

    /// How many events were added.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// `sha256:` and the hex hash.
    pub fn hash(&self) -> String {
        let mut hasher = self.hasher.clone();
        hasher.update(if self.count == 0 { "[]" } else { "]" });
        format!("sha256:{}", crate::canonical::hex(&hasher.finalize()))
    }

    /// The receipt of the run whose events were added.
    pub fn receipt(&self, session: &Session<'_>) -> Value {
        json!({
            "schema": "openagents.receipt.v1",
            "session_id": session.run_id,
            "trajectory_hash": self.hash(),
            "policy_bundle_id": session.policy_bundle_id,
            "created_at": record_time(session.created_at),
            "event_count": self.count,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "tool_calls": [],
            "verification": [],
        })
    }
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// The lines before the events.
pub fn replay_opening(session: &Session<'_>) -> String {
    let created_at = record_time(session.created_at);
    let header = json!({"type": "ReplayHeader", "replay_version": 1, "producer": "openagents-runtime",
        "created_at": created_at});
    let start = json!({"type": "SessionStart", "ts": created_at, "session_id": session.run_id,
        "policy_bundle_id": session.policy_bundle_id});
    line(&header) + &line(&start)
}

/// The line of one event; the payload keeps its key order.
pub fn replay_event(session: &Session<'_>, event: &Recorded<'_>) -> String {
    line(&json!({
        "type": "RuntimeEvent",
        "ts": record_time(event.recorded_at),
        "session_id": session.run_id,
        "seq": event.seq,
        "runtime_event_type": event.event_type,
        "payload_hash": payload_hash(event.payload),
        "payload": event.payload,
    }))
}

/// The last line. `status` is the run's state word, `at` the time of its last event.
pub fn replay_ending(session: &Session<'_>, status: &str, at: Timestamp) -> String {
    let (status, confidence) = match status {
        "succeeded" => ("success", 1.0),
        "failed" => ("failure", 0.0),
        "canceled" => ("cancelled", 0.0),
        _ => ("success", 0.5),
    };
    line(
        &json!({"type": "SessionEnd", "ts": record_time(at), "session_id": session.run_id, "status": status,
        "confidence": confidence, "total_tool_calls": 0}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::sha256_hex;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_hash_is_over_the_canonical_array() {
        let payload = json!({"b": 1, "a": [true, null]});
        let event = |seq, key| Recorded {
            seq,
            event_type: "x",
            payload: &payload,
            idempotency_key: key,
            recorded_at: at("2026-02-01T00:00:01.5Z"),
        };
        let mut trajectory = Trajectory::default();
        assert_eq!(trajectory.hash(), sha256_hex("[]"));
        trajectory.add(&event(1, None));
        trajectory.add(&event(2, Some("k")));
        let whole = concat!(
            r#"[{"event_type":"x","idempotency_key":null,"payload":{"a":[true,null],"b":1},"#,
            r#""recorded_at":"2026-02-01T00:00:01.500+00:00","seq":1},"#,
            r#"{"event_type":"x","idempotency_key":"k","payload":{"a":[true,null],"b":1},"#,
            r#""recorded_at":"2026-02-01T00:00:01.500+00:00","seq":2}]"#
        );
        assert_eq!(trajectory.hash(), sha256_hex(whole));
    }

    #[test]
    fn every_state_has_its_ending() {
        let metadata = json!({"policy_bundle_id": 7});
        let session = Session {
            run_id: "r",
            policy_bundle_id: policy_bundle_id(&metadata),
            created_at: at("2026-02-01T00:00:00Z"),
        };
        assert_eq!(session.policy_bundle_id, "runtime.default");
        for (word, status, confidence) in [
            ("succeeded", "success", "1.0"),
            ("failed", "failure", "0.0"),
            ("canceled", "cancelled", "0.0"),
            ("running", "success", "0.5"),
            ("canceling", "success", "0.5"),
            ("created", "success", "0.5"),
        ] {
            let expected = format!(
                "{{\"type\":\"SessionEnd\",\"ts\":\"2026-02-01T00:00:02+00:00\",\"session_id\":\"r\",\
                 \"status\":\"{status}\",\"confidence\":{confidence},\"total_tool_calls\":0}}\n"
            );
            assert_eq!(
                replay_ending(&session, word, at("2026-02-01T00:00:02Z")),
                expected
            );
        }
    }
}
