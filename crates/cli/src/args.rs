//! The command line. `--help` is the reference; every command shows an example.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;

mod budget;
mod files;
mod interrupts;
mod queue;

pub use budget::BudgetArgs;
pub use files::{FilesAction, FilesArgs, GcArgs, WorkspaceAction, WorkspaceArgs, run_first};
pub use interrupts::{AnswerArgs, ApproveArgs, InterruptsArgs, RejectArgs};
pub use queue::{DropArgs, LetterFilter, QueueAction, QueueArgs, RetryArgs};

const EXIT_CODES: &str = "Exit codes:
  0 ok   1 failed   2 wrong command line   3 the run waits for its user
  4 the system does not answer   5 token missing or refused   130 Ctrl-C

Examples:
  agentctl up --detach
  agentctl run \"List files and create a test.txt file\"
  agentctl logs last -f
  agentctl files last pull ./result
  agentctl doctor";

/// Runs the agent runtime on this machine and works with its runs.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// Home directory of the system [default: AGENT_HOME, else .agent here or above]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the whole system on this machine
    Up(UpArgs),
    /// Stop the system that `up` started
    #[command(after_help = "Example:\n  agentctl down --home ~/agent")]
    Down,
    /// Show the system, or one run
    #[command(after_help = "Examples:\n  agentctl status\n  agentctl status last --json")]
    Status(StatusArgs),
    /// Print the shell file that names addresses, token and logs
    #[command(after_help = "Example:\n  eval \"$(agentctl env)\"; curl -s \"$API_URL/ready\"")]
    Env,
    /// One run that shows it all, without a key: a program in the sandbox, a lost worker, an approval, files
    #[command(
        after_help = "It uses the offline system that runs here, else one of its own that is gone afterwards.\n\nExample:\n  agentctl demo"
    )]
    Demo,
    /// Create and start a run and follow it to its end
    Run(RunArgs),
    /// Show or follow the log of a run
    Logs(LogsArgs),
    /// List runs, newest first
    Runs(RunsArgs),
    /// Stop a run
    #[command(after_help = "Example:\n  agentctl stop last")]
    Stop(OneRun),
    /// Pause a run after its present step
    #[command(after_help = "Example:\n  agentctl pause last")]
    Pause(OneRun),
    /// Go on with a paused run, or answer one that waits
    Resume(ResumeArgs),
    /// Start a failed run again as a new run
    Retry(RetryRunArgs),
    /// List or fetch the files of a run
    Files(FilesArgs),
    /// Look after the files of ended runs
    Workspace(WorkspaceArgs),
    /// The tool calls of a run; say what became of one whose outcome is unknown
    Effects(EffectsArgs),
    /// What a run may spend and has spent; set caps
    Budget(BudgetArgs),
    /// What a run asks you: calls and plans to approve, questions to answer
    Interrupts(InterruptsArgs),
    /// Approve what a run asks for, as it is or with another input
    Approve(ApproveArgs),
    /// Reject what a run asks for
    Reject(RejectArgs),
    /// Answer a run's question
    Answer(AnswerArgs),
    /// Look into the queue and put it right
    Queue(QueueArgs),
    /// Check every dependency and say how to mend it
    #[command(after_help = "Examples:\n  agentctl doctor\n  agentctl doctor --json | jq 'select(.ok|not)'")]
    Doctor {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Apply the database schema
    #[command(after_help = "Example:\n  DATABASE_URL=postgres://… agentctl migrate")]
    Migrate,
    /// Make a token for the API of this system
    Token(TokenArgs),
    /// Print shell completions
    #[command(after_help = "Example:\n  agentctl completions bash > /etc/bash_completion.d/agentctl")]
    Completions { shell: Shell },
    /// Sets what a child process must have before it starts (internal)
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// `agentctl up`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Home defaults to .agent in the working directory. Servers named by DATABASE_URL, REDIS_URL or
S3_ENDPOINT (environment or .env) are used instead of private ones.

Examples:
  agentctl up
  agentctl up --detach --home /srv/agent --api-port 8080 --workers 2
  agentctl up --down"
)]
pub struct UpArgs {
    /// Run in the background; returns when the system is ready
    #[arg(long)]
    pub detach: bool,
    /// Port of the API [default: 8000, or a free one when that is taken]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub api_port: Option<u16>,
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub workers: u32,
    /// Stop what runs in that home (same as `agentctl down`)
    #[arg(long)]
    pub down: bool,
    /// This is the background process of `--detach`
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Run id, or `last`; without one the system is shown
    pub run: Option<String>,
    #[arg(long)]
    pub json: bool,
}

/// `agentctl run`
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is the outcome: 0 completed, 1 failed, cancelled or timed out, 3 it waits for you.
Ctrl-C detaches; the run goes on.

Examples:
  agentctl run \"List files and create a test.txt file\"
  agentctl run --json 'run `ls`' | jq -r .message
  ID=$(agentctl run --detach \"wait 30 seconds\")"
)]
pub struct RunArgs {
    /// What to do, in plain words
    pub prompt: String,
    /// Print the id and return at once
    #[arg(long)]
    pub detach: bool,
    /// One JSON object per event, then a summary
    #[arg(long)]
    pub json: bool,
    /// 0 to 9; above 0 goes first
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: Option<u8>,
    /// Stored with the run
    #[arg(long, value_name = "ID")]
    pub project: Option<String>,
    /// Allow a connector (repeatable)
    #[arg(long = "connector", value_name = "ID")]
    pub connectors: Vec<String>,
    /// What it may do without asking, as JSON: allow, ask or deny by tool
    #[arg(long, value_name = "JSON")]
    pub policy: Option<String>,
    /// Stop after the plan is made, for you to approve
    #[arg(long)]
    pub plan_only: bool,
}

/// `agentctl logs`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl logs last -f\n  agentctl logs last --after 12 --json")]
pub struct LogsArgs {
    /// Run id, or `last`
    pub run: String,
    /// Go on until the run ends; reconnects by itself
    #[arg(short, long)]
    pub follow: bool,
    /// Only what comes after this seq
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub after: i64,
    /// One JSON object per event, as the stream gives it
    #[arg(long)]
    pub json: bool,
}

/// `agentctl runs`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentctl runs --status failed\n  agentctl runs --limit 100 --json | jq -r .id"
)]
pub struct RunsArgs {
    /// Only this status (created, queued, planning, executing, waiting_user, paused, completed, failed, …)
    #[arg(long, value_name = "S")]
    pub status: Option<String>,
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: u32,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct OneRun {
    /// Run id, or `last`
    pub run: String,
}

/// `agentctl retry`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  agentctl retry last\n  agentctl retry last --copy-workspace")]
pub struct RetryRunArgs {
    /// Run id, or `last`
    pub run: String,
    /// Start with the files of the failed run
    #[arg(long)]
    pub copy_workspace: bool,
}

/// `agentctl resume`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentctl resume last --input \"yes, go on\"")]
pub struct ResumeArgs {
    /// Run id, or `last`
    pub run: String,
    /// Your answer to the run's question
    #[arg(long, value_name = "TEXT")]
    pub input: Option<String>,
}

/// `agentctl effects`
#[derive(Debug, Args)]
#[command(
    after_help = "A tool call that must not be repeated and whose worker was lost waits for you: it was done, it was not done
(the model is told so), or call it again with the same idempotency key.

Examples:
  agentctl effects last
  agentctl effects last settle 3 done --output '{\"id\": 7}' --note \"seen in the tracker\"
  agentctl effects last settle 3 retry"
)]
pub struct EffectsArgs {
    /// Run id, or `last`
    pub run: String,
    /// One JSON object per tool call
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub action: Option<EffectsAction>,
}

#[derive(Debug, Subcommand)]
pub enum EffectsAction {
    /// Say what became of a call and let the run go on
    Settle {
        /// Number or id of the step
        step: String,
        #[arg(value_parser = ["done", "not_done", "retry"])]
        decision: String,
        /// What the call gave, as JSON, for the model (with done)
        #[arg(long, value_name = "JSON")]
        output: Option<String>,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
}

/// `agentctl token`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  curl -H \"Authorization: Bearer $(agentctl token --user alice)\" …")]
pub struct TokenArgs {
    /// The user the token speaks for
    #[arg(long, default_value = "dev")]
    pub user: String,
    /// Give it the admin role
    #[arg(long)]
    pub admin: bool,
    /// Lifetime; without it the token does not expire
    #[arg(long, value_name = "SECONDS")]
    pub expires_in: Option<u32>,
}

/// `agentctl guard`: internal
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// Signal this process gets when its parent dies
    #[arg(long)]
    pub death_signal: String,
    /// The parent that must still be there
    #[arg(long)]
    pub parent: i32,
    /// Drop to this user before the program starts
    #[arg(long)]
    pub uid: Option<u32>,
    #[arg(long)]
    pub gid: Option<u32>,
    #[arg(last = true, required = true)]
    pub command: Vec<std::ffi::OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        let all = Cli::command();
        let queue = all.find_subcommand("queue").unwrap();
        for command in all
            .get_subcommands()
            .chain(queue.get_subcommands())
            .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }
}
