//! The command line of `agentctl queue`.

use clap::{Args, Subcommand};

/// `agentctl queue`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentctl queue
  agentctl queue dead --since 1h
  agentctl queue retry --reason max_attempts
  agentctl queue doctor --fix")]
pub struct QueueArgs {
    #[command(subcommand)]
    pub action: Option<QueueAction>,
}

#[derive(Debug, Subcommand)]
pub enum QueueAction {
    /// Lists, oldest job, workers, orphans, outbox (default)
    #[command(after_help = "Example:\n  agentctl queue stats --json | jq .oldest_pending_age_seconds")]
    Stats {
        #[arg(long)]
        json: bool,
    },
    /// The jobs of one list, as they are
    #[command(after_help = "Example:\n  agentctl queue peek processing --limit 5")]
    Peek {
        /// high_priority, pending, processing, retry or failed
        list: String,
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Dead letters with their reasons and the attempts of their runs
    #[command(after_help = "Examples:
  agentctl queue dead --reason permanent_error --since 2h
  agentctl queue dead --run 7a5f… --json")]
    Dead {
        #[command(flatten)]
        filter: LetterFilter,
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// One JSON object per letter
        #[arg(long)]
        json: bool,
    },
    /// Work on dead letters again
    #[command(
        after_help = "A failed run is final: its letter becomes a new run of the same prompt, for the same user.
Doing it twice makes one run.

Examples:
  agentctl queue retry c0de…
  agentctl queue retry --reason max_attempts --since 1h
  agentctl queue retry c0de… --payload '{\"prompt\":\"List files\",\"priority\":5}'
  agentctl queue retry c0de… --payload @job.json"
    )]
    Retry(RetryArgs),
    /// Throw dead letters away
    #[command(after_help = "Examples:
  agentctl queue drop c0de…
  agentctl queue drop --reason undecodable --yes")]
    Drop(DropArgs),
    /// Stop all claiming; running jobs go on
    #[command(after_help = "Example:\n  agentctl queue pause")]
    Pause,
    /// Let workers claim again
    #[command(after_help = "Example:\n  agentctl queue resume")]
    Resume,
    /// Stop claiming and wait until no job is held; the queue stays paused
    #[command(after_help = "Example:\n  agentctl queue drain --timeout 120 && deploy; agentctl queue resume")]
    Drain {
        /// Seconds to wait; then what is still held is shown and the exit code is 1
        #[arg(long, value_name = "S", default_value_t = 60)]
        timeout: u64,
    },
    /// Check that runs and queue agree; changes nothing without --fix
    #[command(after_help = "Exit code 0: clean (with --fix: after mending), 1: findings.

Examples:
  agentctl queue doctor
  agentctl queue doctor --json | jq -r .kind | sort | uniq -c
  agentctl queue doctor --fix")]
    Doctor {
        /// Mend what was found
        #[arg(long)]
        fix: bool,
        /// One JSON object per finding
        #[arg(long)]
        json: bool,
    },
}

/// Which dead letters. Several conditions must all hold.
#[derive(Debug, Clone, Default, Args)]
pub struct LetterFilter {
    /// undecodable, unknown_run, permanent_error, max_attempts or poison
    #[arg(long, value_name = "R", value_parser = REASONS)]
    pub reason: Option<String>,
    /// Of this run
    #[arg(long, value_name = "ID")]
    pub run: Option<uuid::Uuid>,
    /// Failed within this time: 90s, 30m, 2h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<jiff::SignedDuration>,
    /// Whose error contains this text
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
}

const REASONS: [&str; 5] = [
    "undecodable",
    "unknown_run",
    "permanent_error",
    "max_attempts",
    "poison",
];

impl LetterFilter {
    /// No condition at all.
    pub const fn is_empty(&self) -> bool {
        self.reason.is_none() && self.run.is_none() && self.since.is_none() && self.error.is_none()
    }
}

/// `agentctl queue retry`
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Ids of the letters' jobs
    #[arg(value_name = "JOB_ID")]
    pub jobs: Vec<uuid::Uuid>,
    /// Every dead letter
    #[arg(long, conflicts_with = "jobs")]
    pub all: bool,
    #[command(flatten)]
    pub filter: LetterFilter,
    /// Changes: an object with prompt, priority or run_id, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub payload: Option<String>,
    /// One JSON object per letter
    #[arg(long)]
    pub json: bool,
}

/// `agentctl queue drop`
#[derive(Debug, Args)]
pub struct DropArgs {
    /// Ids of the letters' jobs
    #[arg(value_name = "JOB_ID")]
    pub jobs: Vec<uuid::Uuid>,
    /// Every dead letter
    #[arg(long, conflicts_with = "jobs")]
    pub all: bool,
    #[command(flatten)]
    pub filter: LetterFilter,
    /// Needed for more than one
    #[arg(long)]
    pub yes: bool,
    /// One JSON object per letter
    #[arg(long)]
    pub json: bool,
}

/// A length of time in words; a day has 24 hours.
pub(super) fn duration(text: &str) -> Result<jiff::SignedDuration, String> {
    let wrong = |error: jiff::Error| format!("{error}; try 90s, 30m, 2h or 7d");
    let span: jiff::Span = text.parse().map_err(wrong)?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    let length = span.to_duration(day).map_err(wrong)?;
    if length.is_negative() {
        return Err("it must not be negative".to_owned());
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_in_words() {
        assert_eq!(duration("90s").unwrap(), jiff::SignedDuration::from_secs(90));
        assert_eq!(duration("7d").unwrap(), jiff::SignedDuration::from_hours(168));
        assert_eq!(duration("1h 30m").unwrap(), jiff::SignedDuration::from_mins(90));
        assert!(duration("soon").is_err() && duration("-1h").is_err());
    }
}
