//! The MCP servers that a new run names.

use crate::error::Problem;
use domain::mcp::server_names;
use serde_json::Value;

/// The MCP servers of a new run; none when it does not say.
pub(super) fn mcp_servers(asked: Option<&Value>) -> Result<Option<Vec<String>>, Problem> {
    let names = asked.map(server_names).transpose();
    names
        .map_err(|fault| Problem::bad_request("invalid_mcp_servers", format!("Invalid mcp_servers: {fault}")))
}
