//! Settings of MCP servers.

use super::Mcp;
use super::config::{ConfigFault, Server, read};
use crate::launch::NoLauncher;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

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

impl McpOptions {
    /// The servers of the file; none without one.
    pub(super) fn servers(&self) -> Result<BTreeMap<String, Server>, ConfigFault> {
        let file = self.mcp_servers_file.as_ref();
        match file.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => read(path, &|name| std::env::var(name).ok()),
            None => Ok(BTreeMap::new()),
        }
    }

    /// Values of environments and headers, which must never be shown. A file that cannot be read has none; see [`Self::fault`].
    pub fn secrets(&self) -> Vec<String> {
        let servers = self.servers().unwrap_or_default();
        servers.values().flat_map(Server::secrets).collect()
    }

    /// What is wrong with the file or the servers named.
    pub fn fault(&self) -> Option<ConfigFault> {
        let reason = String::new();
        Mcp::load(self, Arc::new(NoLauncher { reason })).err()
    }
}
