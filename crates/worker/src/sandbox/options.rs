//! Settings of the sandbox.

use clap::ValueEnum;
use std::path::PathBuf;

/// Where shell and code run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ToolExecutor {
    /// Namespaces on this machine.
    Local,
    /// Jobs in a Kubernetes cluster.
    Kubernetes,
    /// Nowhere: both tools fail and say what to set.
    None,
}

#[derive(Debug, Clone, clap::Args)]
pub struct SandboxOptions {
    /// Where the tools shell and code run
    #[arg(long, env = "TOOL_EXECUTOR", default_value = "local")]
    pub tool_executor: ToolExecutor,
    /// Directory of the workspaces of running tools [default: agent-sandbox-UID in the system's temporary directory]
    #[arg(long, env = "TOOL_SCRATCH_DIR")]
    pub tool_scratch_dir: Option<PathBuf>,
}
