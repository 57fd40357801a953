//! The states of a worker and the moves between them, as a pure table.
//!
//! | from | to |
//! | --- | --- |
//! | starting | running, stopping, failed |
//! | running | stopping, stopped, failed |
//! | stopping | stopped, failed |
//! | stopped, failed | starting, running |
//!
//! The same state again is always allowed.

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerStatus {
    Starting,
    Running,
    Stopping,
    Stopped,
    Failed,
}

impl WorkerStatus {
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Reads a state word; unknown words are `None`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The worker does nothing any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// The type of the lifecycle event of a move to this state.
    pub const fn event_type(self) -> &'static str {
        match self {
            Self::Starting => "worker.starting",
            Self::Running => "worker.running",
            Self::Stopping => "worker.stopping",
            Self::Stopped => "worker.stopped",
            Self::Failed => "worker.failed",
        }
    }

    /// The table.
    pub fn may_become(self, to: Self) -> bool {
        let allowed: &[Self] = match self {
            Self::Starting => &[Self::Running, Self::Stopping, Self::Failed],
            Self::Running => &[Self::Stopping, Self::Stopped, Self::Failed],
            Self::Stopping => &[Self::Stopped, Self::Failed],
            Self::Stopped | Self::Failed => &[Self::Starting, Self::Running],
        };
        self == to || allowed.contains(&to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_answered_as_the_table_says() {
        let cell = |from: WorkerStatus, to| if from.may_become(to) { 'y' } else { '.' };
        let table: Vec<String> = WorkerStatus::ALL
            .into_iter()
            .map(|from| WorkerStatus::ALL.into_iter().map(|to| cell(from, to)).collect())
            .collect();
        assert_eq!(table, ["yyy.y", ".yyyy", "..yyy", "yy.y.", "yy..y"]);
    }
}
