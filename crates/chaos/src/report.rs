//! What a campaign found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::campaign::Found;
use crate::checker::Violation;
use crate::history::{Entry, Record, Verdict};

/// Faults that this machine does not allow, with the reason; they are not counted as done.
const NOT_DONE: [(&str, &str); 3] = [
    (
        "disk_full",
        "the S3 store needs a file system of its own for it, and this user may not mount one",
    ),
    (
        "clock_step",
        "asked for with --faults clock, and needs libfaketime (Debian/Ubuntu: apt-get install faketime)",
    ),
    (
        "debug_sleep",
        "the server's settings forbid DEBUG; redis_busy and redis_freeze block it as long",
    ),
];
/// Most violations whose run's history is shown.
const SHOWN: usize = 5;

/// The figures of one campaign.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub seed: u64,
    pub seconds: u64,
    pub settled_after: Duration,
    pub faults: BTreeMap<String, u64>,
    /// Runs by status, `failed` with its code.
    pub outcomes: BTreeMap<String, u64>,
    pub calls: BTreeMap<&'static str, u64>,
    pub decisions: BTreeMap<String, u64>,
    pub watchdog_exits: u64,
    pub acknowledged: u64,
    /// Whole looks of the observer.
    pub samples: u64,
}

impl Report {
    pub fn of(seed: u64, time: Duration, found: &Found) -> Self {
        let mut report = Self {
            seed,
            seconds: time.as_secs(),
            settled_after: found.settled_after,
            faults: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            calls: BTreeMap::new(),
            decisions: BTreeMap::new(),
            watchdog_exits: 0,
            acknowledged: 0,
            samples: found.samples,
        };
        for record in &found.records {
            report.add(&record.entry);
        }
        for run in found.facts.runs.values() {
            let code = run.error_code.as_ref().map(|code| format!(" ({code})"));
            let outcome = format!("{}{}", run.status, code.unwrap_or_default());
            *report.outcomes.entry(outcome).or_default() += 1;
        }
        report
    }

    fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Fault { name, .. } => *self.faults.entry(name.clone()).or_default() += 1,
            Entry::Call(call) => {
                let verdict = match call.verdict {
                    Verdict::Accepted => "accepted",
                    Verdict::Stale => "refused as stale",
                    Verdict::Failed => "failed on purpose",
                };
                *self.calls.entry(verdict).or_default() += 1;
            }
            Entry::Decided { decision, .. } => *self.decisions.entry(decision.clone()).or_default() += 1,
            Entry::Exit { watchdog: true, .. } => self.watchdog_exits += 1,
            Entry::Started { .. } => self.acknowledged += 1,
            _ => {}
        }
    }

    /// Name and reason of what was not done.
    fn not_done(&self) -> Vec<(String, String)> {
        let missing = NOT_DONE
            .iter()
            .filter(|(name, _)| !self.faults.contains_key(*name));
        missing
            .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
            .collect()
    }

    pub fn total_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// One line of JSON.
    pub fn json(&self, violations: &[Violation]) -> Value {
        json!({
            "seed": self.seed,
            "seconds": self.seconds,
            "settled_after_ms": self.settled_after.as_millis() as u64,
            "faults_total": self.total_faults(),
            "faults": self.faults,
            "not_done": self.not_done().into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "acknowledged_runs": self.acknowledged,
            "runs": self.outcomes,
            "calls": self.calls,
            "unknown_effects": self.decisions,
            "watchdog_exits": self.watchdog_exits,
            "observer_samples": self.samples,
            "violations": violations,
        })
    }

    /// The table for people.
    pub fn table(&self, violations: &[Violation]) -> String {
        let mut text = String::new();
        let mut section = |title: &str, rows: Vec<(String, String)>| {
            writeln!(text, "{title}").expect("a string can be written");
            for (name, value) in rows {
                writeln!(text, "  {name:<28} {value:>8}").expect("a string can be written");
            }
        };
        let rows = |map: &BTreeMap<String, u64>| -> Vec<(String, String)> {
            map.iter()
                .map(|(name, count)| (name.clone(), count.to_string()))
                .collect()
        };
        let rate = self.total_faults() as f64 / (self.seconds.max(1)) as f64;
        let title = format!(
            "faults: {} in {} s ({rate:.1}/s)",
            self.total_faults(),
            self.seconds
        );
        section(&title, rows(&self.faults));
        section("not done here", self.not_done());
        section(
            &format!("runs: {} acknowledged", self.acknowledged),
            rows(&self.outcomes),
        );
        let calls = self
            .calls
            .iter()
            .map(|(name, count)| ((*name).to_owned(), count.to_string()));
        section("calls of counting tools", calls.collect());
        section("unknown effects settled", rows(&self.decisions));
        let other = [
            ("looks of the observer", self.samples.to_string()),
            ("watchdog exits", self.watchdog_exits.to_string()),
            (
                "seconds to rest",
                format!("{:.1}", self.settled_after.as_secs_f64()),
            ),
            ("violations", violations.len().to_string()),
        ];
        section(
            "other",
            other.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        );
        text
    }
}

/// Violations, and what the history holds of the first of their runs.
pub fn violations(violations: &[Violation], records: &[Record]) -> String {
    let mut text = String::new();
    for violation in violations {
        let run = violation.run_id.as_deref().unwrap_or("-");
        writeln!(text, "VIOLATION {} {run}: {}", violation.rule, violation.detail).expect("a string");
    }
    for run_id in violations
        .iter()
        .filter_map(|violation| violation.run_id.as_deref())
        .take(SHOWN)
    {
        writeln!(text, "--- history of {run_id}").expect("a string");
        for record in records
            .iter()
            .filter(|record| record.entry.run_id() == Some(run_id))
        {
            let line = serde_json::to_string(record).expect("a record is JSON");
            writeln!(text, "{line}").expect("a string");
        }
    }
    text
}
