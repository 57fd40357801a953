//! Settings of MCP servers.

use std::path::PathBuf;

/// Which servers there are, and which of them a run has that names none.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct McpOptions {
    /// JSON file of MCP servers: {"mcpServers": {"name": {"command", "args", "env"} or {"url", "headers"}}}
    #[arg(long, env = "MCP_SERVERS_FILE")]
    pub mcp_servers_file: Option<PathBuf>,
    /// Servers of runs that name none, separated by commas [default: none]
    #[arg(long, env = "MCP_DEFAULT_SERVERS", value_delimiter = ',')]
    pub mcp_default_servers: Vec<String>,
    /// Longest start of a server, listing its tools included, in seconds
    #[arg(long, env = "MCP_START_TIMEOUT_SECONDS", default_value_t = 30)]
    pub mcp_start_timeout_seconds: u64,
    /// Longest call of an MCP tool, in seconds
    #[arg(long, env = "MCP_CALL_TIMEOUT_SECONDS", default_value_t = 120)]
    pub mcp_call_timeout_seconds: u64,
}
