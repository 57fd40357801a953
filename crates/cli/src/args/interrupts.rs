//! Arguments of the commands that decide what a run asks.

use clap::Args;

/// `agentctl interrupts`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentctl interrupts last\n  agentctl interrupts last --all --json | jq .status"
)]
pub struct InterruptsArgs {
    /// Run id, or `last`
    pub run: String,
    /// The decided ones too
    #[arg(long)]
    pub all: bool,
    /// One JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `agentctl approve`
#[derive(Debug, Args)]
#[command(
    after_help = "Without an interrupt the only open one is meant. With --input the call is made with that input (or the plan is
replaced by that plan) and the model is told so.

Examples:
  agentctl approve last
  agentctl approve last --all
  agentctl approve last 4f0c… --input '{\"command\":\"ls -l\"}'"
)]
pub struct ApproveArgs {
    /// Run id, or `last`
    pub run: String,
    /// Id of an interrupt, or its beginning
    pub interrupt: Option<String>,
    /// Everything that is open, but questions
    #[arg(long, conflicts_with_all = ["interrupt", "input"])]
    pub all: bool,
    /// Another input, as JSON
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
}

/// `agentctl reject`
#[derive(Debug, Args)]
#[command(
    after_help = "A rejected call is told to the model, which goes on; a rejected plan ends the run.

Examples:
  agentctl reject last --reason \"not in production\"
  agentctl reject last --all"
)]
pub struct RejectArgs {
    /// Run id, or `last`
    pub run: String,
    /// Id of an interrupt, or its beginning
    pub interrupt: Option<String>,
    /// Everything that is open, but questions
    #[arg(long, conflicts_with = "interrupt")]
    pub all: bool,
    /// Why, for the model
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `agentctl answer`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  agentctl answer last \"the second one\"\n  agentctl answer last 4f0c… blue"
)]
pub struct AnswerArgs {
    /// Run id, or `last`
    pub run: String,
    /// The answer; before it the id of a question, or its beginning, when several are open
    #[arg(required = true, num_args = 1..=2, value_names = ["INTERRUPT", "TEXT"])]
    pub words: Vec<String>,
}
