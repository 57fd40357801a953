//! What happened, written down outside the system under test: one JSON line per record.
//!
//! A record is in the file before what it tells of takes effect, so a crash of the harness loses none.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use domain::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

/// What the counting server did with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It counts.
    Accepted,
    /// Its fencing token is lower than the run's highest, or than the operator's floor: 409.
    Stale,
    /// A planned failure: 500, nothing counted.
    Failed,
}

/// A call as it reached the counting server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub run_id: String,
    pub step_id: String,
    pub tool: String,
    /// `{run_id}:{turn}:{action}`
    pub key: String,
    pub token: i64,
    pub verdict: Verdict,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The API answered a create: the run must exist for ever.
    Created {
        run_id: String,
    },
    /// The API answered a start (or a create with auto start): the run must come to an end.
    Started {
        run_id: String,
    },
    /// The API answered another action of a client.
    Acted {
        run_id: String,
        action: String,
    },
    Call(Call),
    /// The answer to a call left the counting server.
    Answered {
        run_id: String,
        key: String,
        token: i64,
        cut: bool,
    },
    /// The operator: no call of this run below this token counts any more.
    Floor {
        run_id: String,
        token: i64,
    },
    /// The operator sends an answer about an unknown effect; it may still be taken when no reply comes.
    Deciding {
        run_id: String,
        step_id: String,
        decision: String,
    },
    /// The operator's answer about an unknown effect was taken.
    Decided {
        run_id: String,
        step_id: String,
        decision: String,
    },
    /// `loses_redis`: entries of lists may be gone for a while.
    Fault {
        name: String,
        target: String,
        loses_redis: bool,
    },
    /// A program ended and nobody had killed it. No `code`: by a signal.
    Exit {
        node: String,
        code: Option<i32>,
        watchdog: bool,
    },
    /// The observer saw a run in a wrong number of lists. `two_jobs`: in two, under different job ids.
    Misplaced {
        run_id: String,
        detail: String,
        two_jobs: bool,
    },
    /// The observer met a dead letter for the first time.
    DeadLetter {
        run_id: String,
        reason: String,
    },
    /// The load has stopped and no fault is injected any more.
    Quiet,
    /// Anything worth reading in a report.
    Note {
        text: String,
    },
}

impl Entry {
    /// The run it belongs to.
    pub fn run_id(&self) -> Option<&str> {
        match self {
            Self::Created { run_id }
            | Self::Started { run_id }
            | Self::Acted { run_id, .. }
            | Self::Answered { run_id, .. }
            | Self::Floor { run_id, .. }
            | Self::Deciding { run_id, .. }
            | Self::Decided { run_id, .. }
            | Self::Misplaced { run_id, .. }
            | Self::DeadLetter { run_id, .. }
            | Self::Call(Call { run_id, .. }) => Some(run_id),
            Self::Fault { .. } | Self::Exit { .. } | Self::Quiet | Self::Note { .. } => None,
        }
    }
}

/// An entry and its time, in microseconds since 1970 by this machine's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub at_us: i64,
    #[serde(flatten)]
    pub entry: Entry,
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    SystemClock.now().as_microsecond()
}

/// The file, open for appending.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    file: Mutex<File>,
}

impl History {
    /// A new file `history.jsonl` in `dir`.
    pub fn create(dir: &Path) -> Self {
        let path = dir.join("history.jsonl");
        let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            path,
            file: Mutex::new(file),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record with the present time; in the file when this returns.
    pub fn add(&self, entry: Entry) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let record = Record {
            at_us: now_us(),
            entry,
        };
        let mut line = serde_json::to_string(&record).expect("a record is JSON");
        line.push('\n');
        file.write_all(line.as_bytes())
            .expect("the history can be written");
    }

    pub fn note(&self, text: impl Into<String>) {
        self.add(Entry::Note { text: text.into() });
    }

    /// All records so far, in order.
    pub fn read(&self) -> Vec<Record> {
        let text = std::fs::read_to_string(&self.path).expect("the history can be read");
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        text.lines().map(parse).collect()
    }
}
