//! Run statuses and the table of allowed changes.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a run stands. The emitted names are the lower-case words of [`RunStatus::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Created,
    Queued,
    Planning,
    Executing,
    #[serde(alias = "waiting_input")]
    WaitingUser,
    Paused,
    Completed,
    Failed,
    Cancelled,
    Timeout,
}

impl RunStatus {
    /// Every status, in the order of a run's life.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Queued,
        Self::Planning,
        Self::Executing,
        Self::WaitingUser,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Timeout,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Executing => "executing",
            Self::WaitingUser => "waiting_user",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
        }
    }

    /// Reads a name as emitted, or `waiting_input` as a second name of `waiting_user`.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "waiting_input" {
            return Some(Self::WaitingUser);
        }
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// No further change and no further event.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Timeout
        )
    }

    /// A job of this run must be in one of the Redis lists.
    pub const fn needs_job(self) -> bool {
        matches!(self, Self::Queued | Self::Planning | Self::Executing)
    }

    /// The table of allowed changes; anything else never happens, under any concurrency.
    pub const fn may_become(self, to: Self) -> bool {
        use RunStatus as S;
        match self {
            S::Created => matches!(to, S::Queued | S::Cancelled),
            S::Queued => matches!(to, S::Planning | S::Cancelled | S::Failed),
            S::Planning => matches!(to, S::Executing | S::Failed | S::Cancelled | S::Timeout),
            S::Executing => matches!(
                to,
                S::Completed | S::Failed | S::Cancelled | S::Timeout | S::WaitingUser | S::Paused
            ),
            S::WaitingUser => matches!(to, S::Executing | S::Cancelled | S::Timeout),
            S::Paused => matches!(to, S::Executing | S::Cancelled),
            S::Completed | S::Failed | S::Cancelled | S::Timeout => false,
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_and_waiting_input_is_understood() {
        for status in RunStatus::ALL {
            assert_eq!(RunStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(RunStatus::parse("waiting_input"), Some(RunStatus::WaitingUser));
        assert_eq!(RunStatus::parse("done"), None);
    }

    #[test]
    fn final_statuses_lead_nowhere_and_only_the_listed_changes_exist() {
        let mut allowed = 0;
        for from in RunStatus::ALL {
            for to in RunStatus::ALL {
                if from.may_become(to) {
                    allowed += 1;
                    assert!(!from.is_final(), "{from} -> {to}");
                }
            }
        }
        assert_eq!(allowed, 2 + 3 + 4 + 6 + 3 + 2);
    }
}
