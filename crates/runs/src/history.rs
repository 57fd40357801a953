//! Recorded histories with their hashes: what any version of the program must compute from them again.

use crate::runtime_machine::{Outcome, Refusal, State, Transition, step};
use domain::canonical::sha256_hex;
use domain::ids::RunId;
use domain::recording::{
    Recorded, Session, Trajectory, policy_bundle_id, replay_ending, replay_event, replay_opening,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// `schema` of a file of histories.
pub const SCHEMA: &str = "openagents.runtime.workflow_history_compat.v1";
/// `version` of a file of histories.
pub const VERSION: i64 = 1;
/// The histories this program was built with.
pub const BUILT_IN: &str = include_str!("../../../fixtures/history_compat/run_workflow_histories_v1.json");

/// A file of histories.
#[derive(Debug, Clone, Deserialize)]
pub struct Histories {
    pub schema: String,
    pub version: i64,
    pub fixtures: Vec<History>,
}

/// A whole run as it was recorded, and what must come out of it.
#[derive(Debug, Clone, Deserialize)]
pub struct History {
    pub id: String,
    pub run_id: RunId,
    pub created_at: Timestamp,
    #[serde(default)]
    pub metadata: Value,
    pub events: Vec<HistoryEvent>,
    pub expected: Expected,
}

/// One recorded event.
#[derive(Debug, Clone, Deserialize)]
pub struct HistoryEvent {
    pub seq: i64,
    pub event_type: String,
    #[serde(default)]
    pub payload: Value,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    pub recorded_at: Timestamp,
}

/// What must come out.
#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    pub final_status: String,
    pub trajectory_hash: String,
    pub replay_hash: String,
    pub runtime_event_count: i64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    /// State word, or why an event is not allowed.
    pub final_status: String,
    pub trajectory_hash: String,
    pub replay_hash: String,
    pub runtime_event_count: i64,
}

impl History {
    /// Plays the history through the state machine and hashes it.
    pub fn compute(&self) -> Computed {
        let id = self.run_id.to_string();
        let session = Session {
            run_id: &id,
            policy_bundle_id: policy_bundle_id(&self.metadata),
            created_at: self.created_at,
        };
        let status = match self.final_state() {
            Ok(state) => state.as_str().to_owned(),
            Err(refusal) => refusal.to_string(),
        };
        let mut trajectory = Trajectory::default();
        let mut replay = replay_opening(&session);
        for event in &self.events {
            let recorded = event.recorded();
            trajectory.add(&recorded);
            replay += &replay_event(&session, &recorded);
        }
        let last_at = self
            .events
            .last()
            .map_or(self.created_at, |event| event.recorded_at);
        replay += &replay_ending(&session, &status, last_at);
        Computed {
            final_status: status,
            trajectory_hash: trajectory.hash(),
            replay_hash: sha256_hex(&replay),
            runtime_event_count: trajectory.count(),
        }
    }

    fn final_state(&self) -> Result<State, Refusal> {
        self.events.iter().try_fold(State::Created, |state, event| {
            let transition = Transition::of_event(&event.event_type, &event.payload)?;
            Ok(match step(state, transition)? {
                Outcome::Append(to) => to,
                Outcome::NoOp => state,
            })
        })
    }

    /// One line per field that came out otherwise.
    pub fn differences(&self) -> Vec<String> {
        let (computed, expected) = (self.compute(), &self.expected);
        let fields = [
            ("final_status", &expected.final_status, &computed.final_status),
            (
                "trajectory_hash",
                &expected.trajectory_hash,
                &computed.trajectory_hash,
            ),
            ("replay_hash", &expected.replay_hash, &computed.replay_hash),
            (
                "runtime_event_count",
                &expected.runtime_event_count.to_string(),
                &computed.runtime_event_count.to_string(),
            ),
        ];
        let differing = fields
            .into_iter()
            .filter(|(_, expected, computed)| expected != computed);
        differing
            .map(|(field, expected, computed)| {
                format!(
                    "fixture {} field {field}: expected {expected}, computed {computed}",
                    self.id
                )
            })
            .collect()
    }
}

impl HistoryEvent {
    /// The event as receipts and replays see it.
    pub fn recorded(&self) -> Recorded<'_> {
        Recorded {
            seq: self.seq,
            event_type: &self.event_type,
            payload: &self.payload,
            idempotency_key: self.idempotency_key.as_deref(),
            recorded_at: self.recorded_at,
        }
    }
}

/// The number of histories in the file, or every difference found.
pub fn check(text: &str) -> Result<usize, Vec<String>> {
    let histories: Histories =
        serde_json::from_str(text).map_err(|error| vec![format!("file is not readable: {error}")])?;
    let mut differences = vec![];
    if histories.schema != SCHEMA {
        differences.push(format!("schema: expected {SCHEMA}, found {}", histories.schema));
    }
    if histories.version != VERSION {
        differences.push(format!(
            "version: expected {VERSION}, found {}",
            histories.version
        ));
    }
    differences.extend(histories.fixtures.iter().flat_map(History::differences));
    if differences.is_empty() {
        Ok(histories.fixtures.len())
    } else {
        Err(differences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::canonical::event_hash;

    /// Run, trajectory hash, replay hash, projection hash, chain head of the published vectors.
    const GOLDEN: [[&str; 5]; 3] = [
        [
            "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0",
            "d694384b3f1f8c08b9c855256dd8aa0e3bd954ea77d72e7ee45c8aa1f48da288",
            "d0f58fa2c0aef7d87ac809d6420852c6fd8f37b8e24fb489b551867323beec69",
            "5bdc05b87f44ea68e74355094e2a1a6015292ad7bd5b63378d3ff3d89f977a18",
            "a780f70132394e4e60a9678c51183df4acc40d403295550dafa32b73bbf98708",
        ],
        [
            "01951d2a-6c15-7f2f-a9da-d132c2341bc8",
            "54bdc13b9b6a5ab38f6011dd015efb55c538146b0435fd12de7b5994a7705395",
            "8c091d9c93711189e51ca37c8f313e3749b0adb8ba7982c7c4e78ba8641c8010",
            "0faafeee752e477bbcee6b6c96d631aee295571405829e37294d8340d7b91128",
            "5ecf8bf330a9c99a6c2a9552a7c3fdd6504189437a4798de69ec08b78fb76c85",
        ],
        [
            "01951d2a-6c15-7200-8d40-18ee9542a53f",
            "1cef2cc15a31dd60cce2a6cf3cfc2851da685e3701a8c67ceaaab7a7de80b751",
            "70e021633e2df2e1b5cf0919934f60f1a4bc3e4eac1321dd40d858a78f911a31",
            "4b2cb4d2e490f1b5548d3fcfb7b5da9b65f53f9b5c2f2360218b8a7aa287aa85",
            "0306d8162449dd868a5dbb80b818411f27e4898c1e51d15fee00850c0373d885",
        ],
    ];

    fn built_in() -> Histories {
        serde_json::from_str(BUILT_IN).unwrap()
    }

    fn chain_head(history: &History) -> String {
        let link = |previous: Option<String>, event: &HistoryEvent| {
            let id = history.run_id.to_string();
            let (kind, payload) = (&event.event_type, &event.payload);
            Some(event_hash(&id, event.seq, kind, payload, previous.as_deref()))
        };
        history.events.iter().fold(None, link).unwrap()
    }

    #[test]
    fn all_four_published_values_of_every_vector_come_out() {
        for (history, golden) in built_in().fixtures.iter().zip(GOLDEN) {
            let computed = history.compute();
            let count = computed.runtime_event_count;
            let projection = crate::projection_hash(history.run_id, &computed.final_status, count, count);
            let values = [
                computed.trajectory_hash,
                computed.replay_hash,
                projection,
                chain_head(history),
            ];
            assert_eq!(history.run_id.to_string(), golden[0]);
            assert_eq!(
                values,
                [1, 2, 3, 4].map(|n| format!("sha256:{}", golden[n])),
                "{}",
                history.id
            );
        }
    }

    #[test]
    fn the_built_in_file_is_right_and_any_difference_names_fixture_and_field() {
        assert_eq!(check(BUILT_IN), Ok(3));
        for (from, to, named) in [
            ("d694384b", "00000000", "trajectory_hash"),
            ("d0f58fa2", "00000000", "replay_hash"),
            (
                r#""final_status": "succeeded""#,
                r#""final_status": "failed""#,
                "final_status",
            ),
            (
                r#""runtime_event_count": 2"#,
                r#""runtime_event_count": 3"#,
                "runtime_event_count",
            ),
        ] {
            let changed = BUILT_IN.replacen(from, to, 1);
            assert_ne!(changed, BUILT_IN, "{named}");
            let found = check(&changed).unwrap_err();
            let begin = format!("fixture {} field {named}: expected ", built_in().fixtures[0].id);
            assert!(found.len() == 1 && found[0].starts_with(&begin), "{found:?}");
        }
        let illegal = BUILT_IN.replacen(r#""status": "canceled""#, r#""status": "succeeded""#, 1);
        let found = check(&illegal).unwrap_err().join("\n");
        assert!(
            found.contains("invalid run transition: Canceling -> FinishSucceeded"),
            "{found}"
        );
        let other = BUILT_IN.replacen(SCHEMA, "x", 1);
        assert!(check(&other).unwrap_err()[0].starts_with("schema: "));
        assert!(check("{").unwrap_err()[0].starts_with("file is not readable: "));
    }
}
