//! `agentctl budget`

use clap::Args;

/// `agentctl budget`
#[derive(Debug, Args)]
#[command(
    after_help = "Without a cap it shows what the run may spend and has spent. A run that waits for its budget goes on when the
new caps have room.

Examples:
  agentctl budget last
  agentctl budget last --tokens 500000 --cost-usd 2.5
  agentctl budget last --none steps"
)]
pub struct BudgetArgs {
    /// Run id, or `last`
    pub run: String,
    /// Tokens of all model calls
    #[arg(long, value_name = "N")]
    pub tokens: Option<u64>,
    /// Dollars of all model calls
    #[arg(long, value_name = "X")]
    pub cost_usd: Option<f64>,
    /// Tool calls
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Working time in seconds
    #[arg(long, value_name = "S")]
    pub wall_seconds: Option<f64>,
    /// Time of tools in a sandbox, in seconds
    #[arg(long, value_name = "S")]
    pub sandbox_seconds: Option<f64>,
    /// Take this cap away; may be given several times
    #[arg(long, value_name = "NAME",
        value_parser = ["tokens", "cost_usd", "steps", "wall_seconds", "sandbox_seconds"])]
    pub none: Vec<String>,
    #[arg(long)]
    pub json: bool,
}
