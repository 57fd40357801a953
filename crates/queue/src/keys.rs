//! Names of all Redis keys and channels, in one place.
//!
//! Every script gets the same key list in the same order ([`Keys::all`]; `lua/prelude.lua` names them), so each
//! key a script touches is declared: Dragonfly and Redis Cluster ask for that.

use domain::RunId;
use fred::types::Key;
use std::fmt;

/// The five job lists. All stay Redis lists, so `LLEN` is their exact size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListName {
    HighPriority,
    Pending,
    Processing,
    Retry,
    Failed,
}

impl ListName {
    pub const ALL: [Self; 5] = [
        Self::HighPriority,
        Self::Pending,
        Self::Processing,
        Self::Retry,
        Self::Failed,
    ];

    /// The part of the key behind the prefix.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::HighPriority => "high_priority",
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Retry => "retry",
            Self::Failed => "failed",
        }
    }

    /// The list's name inside `jobs:meta` and the scripts.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::HighPriority => "high",
            other => other.suffix(),
        }
    }

    pub(crate) fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.code() == code)
    }

    /// Where a job of this priority waits.
    pub(crate) const fn home(priority: u8) -> Self {
        if priority > 0 {
            Self::HighPriority
        } else {
            Self::Pending
        }
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix())
    }
}

/// UTC time of the last beat of any worker; expires after 30 s.
pub(crate) const WORKER_HEARTBEAT: &str = "worker:heartbeat";
/// UTC time at which a worker last started.
pub(crate) const WORKER_LAST_START: &str = "worker:last_start";
/// Text lines of the workers, newest first, at most [`WORKER_DEBUG_LINES`].
pub(crate) const WORKER_DEBUG: &str = "worker:debug";
/// Longest `worker:debug`, in lines.
pub(crate) const WORKER_DEBUG_LINES: i64 = 100;
/// Channel on which a run id means: look at this run in Postgres now (cancelled, paused).
pub(crate) const CONTROL_CHANNEL: &str = "agent:control";
const LOG_CHANNEL_PREFIX: &str = "agent:logs:";

/// Channel of a run's live events.
pub fn log_channel(run_id: RunId) -> String {
    format!("{LOG_CHANNEL_PREFIX}{run_id}")
}

/// The last line of thought of a run.
pub(crate) fn thinking(run_id: RunId) -> String {
    format!("run:{run_id}:thinking")
}

/// The keys under one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
    all: Vec<Key>,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let suffixes = [
            ListName::HighPriority.suffix(),
            ListName::Pending.suffix(),
            ListName::Processing.suffix(),
            ListName::Retry.suffix(),
            ListName::Failed.suffix(),
            "retry:due",
            "lease",
            "meta",
            "body",
            "wake",
            "paused",
            "incarnation",
            "sweep",
            "suspects",
            "retry:place",
        ];
        let all = suffixes.map(|suffix| Key::from(format!("{prefix}:{suffix}")));
        Self {
            prefix: prefix.to_owned(),
            all: all.to_vec(),
        }
    }

    /// KEYS of every script.
    pub(crate) fn all(&self) -> &[Key] {
        &self.all
    }

    pub(crate) fn list(&self, list: ListName) -> String {
        self.named(list.suffix())
    }

    pub(crate) fn named(&self, suffix: &str) -> String {
        format!("{}:{suffix}", self.prefix)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}
