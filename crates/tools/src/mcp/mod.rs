//! MCP servers as tools.
//!
//! Invariants:
//! - A run has only the servers it names, or those of `MCP_DEFAULT_SERVERS` when it names none.
//! - A server's program runs in a sandbox, one for each drive of a run, with the environment of `MCP_SERVERS_FILE` and nothing of
//!   ours; it ends with the drive. A server at an address is spoken to through the guarded client.
//! - What a server says, descriptions of its tools included, is untrusted: cleaned of what does not show, limited in size and time.
//! - The list of tools is read once for a drive. Each tool has a pin, a hash over all the server says of it, which belongs to what
//!   a person is asked to approve: another description asks again.
//! - A call whose answer is lost counts as not known to be done, unless its server says that the tool may be repeated.

mod config;
mod connect;
mod naming;
mod options;
mod result;
mod tool;

pub use config::ConfigFault;
pub use options::McpOptions;

use agent::ports::{ToolSpec, Workspace};
use agent::tools::{Call, ToolError};
use config::{Server, Way};
use connect::{AnyLauncher, CallFault, Connection};
use domain::mcp::MOST_SERVERS;
use domain::{Effect, Labels, ToolResult};
use futures::future::join_all;
use naming::server_of;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tool::{ANYTHING, Tool};

/// The servers a worker knows.
#[derive(Debug, Clone)]
pub struct Mcp {
    servers: BTreeMap<String, Server>,
    default_servers: Vec<String>,
    launcher: AnyLauncher,
    start_limit: Duration,
    call_limit: Duration,
}

impl Mcp {
    /// Reads `MCP_SERVERS_FILE`; starts nothing.
    ///
    /// # Errors
    /// The first fault in the file or the settings.
    pub fn load(options: &McpOptions, launcher: AnyLauncher) -> Result<Self, ConfigFault> {
        let file = options
            .mcp_servers_file
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty());
        let servers = match file {
            Some(path) => config::read(path, &|name| std::env::var(name).ok())?,
            None => BTreeMap::new(),
        };
        let names = options.mcp_default_servers.iter().map(|name| name.trim());
        let default_servers: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if let Some(unknown) = default_servers.iter().find(|name| !servers.contains_key(*name)) {
            return Err(ConfigFault(format!(
                "MCP_DEFAULT_SERVERS names \"{unknown}\", which is not in it"
            )));
        }
        Ok(Self {
            servers,
            default_servers,
            launcher,
            start_limit: Duration::from_secs(options.mcp_start_timeout_seconds.max(1)),
            call_limit: Duration::from_secs(options.mcp_call_timeout_seconds.max(1)),
        })
    }

    /// With somebody else who starts programs.
    #[must_use]
    pub fn with_launcher(&self, launcher: AnyLauncher) -> Self {
        Self {
            launcher,
            ..self.clone()
        }
    }

    pub fn is_configured(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Names of those that are programs of ours to start.
    pub(crate) fn programs(&self) -> Vec<&str> {
        let is_program = |server: &Server| matches!(server.way, Way::Program { .. });
        let servers = self.servers.iter().filter(|(_, server)| is_program(server));
        servers.map(|(name, _)| name.as_str()).collect()
    }

    /// For the log and for `check`.
    pub fn describe(&self) -> String {
        if self.servers.is_empty() {
            return "not configured: set MCP_SERVERS_FILE".to_owned();
        }
        let names: Vec<&str> = self.servers.keys().map(String::as_str).collect();
        names.join(", ")
    }

    /// Connects the servers of one drive, side by side. One that cannot be had is told to the model when it is called.
    /// `named`: those of the run; none means the default ones.
    pub async fn of_run(&self, named: Option<&[String]>, cancel: &CancellationToken) -> McpOfRun {
        let named: BTreeSet<&String> = named
            .unwrap_or(&self.default_servers)
            .iter()
            .take(MOST_SERVERS)
            .collect();
        let connecting = named.into_iter().map(|name| async move {
            let connected = match self.servers.get(name) {
                None => Err("it is not in MCP_SERVERS_FILE".to_owned()),
                Some(server) => self.connect(name, server, cancel).await,
            };
            if let Err(fault) = &connected {
                tracing::warn!(server = name, fault, "MCP server is not available");
            }
            (name.clone(), connected)
        });
        McpOfRun {
            servers: join_all(connecting).await.into_iter().collect(),
            call_limit: self.call_limit,
        }
    }

    async fn connect(
        &self,
        name: &str,
        server: &Server,
        cancel: &CancellationToken,
    ) -> Result<Connection, String> {
        let connecting = connect::connect(name, server, self.launcher.as_ref());
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err("the run was stopped".to_owned()),
            connected = tokio::time::timeout(self.start_limit, connecting) => connected.unwrap_or_else(|_| {
                Err(format!("it did not start within {} s", self.start_limit.as_secs()))
            }),
        }
    }
}

/// The servers of one drive of a run.
#[derive(Debug, Default)]
pub struct McpOfRun {
    servers: BTreeMap<String, Result<Connection, String>>,
    call_limit: Duration,
}

impl McpOfRun {
    /// Whether a name is one of an MCP tool, there or not.
    pub fn claims(name: &str) -> bool {
        server_of(name).is_some()
    }

    /// As told to the model.
    pub fn specs(&self) -> Vec<ToolSpec> {
        let connections = self.servers.values().flatten();
        connections
            .flat_map(|connection| &connection.tools)
            .map(|tool| tool.spec.clone())
            .collect()
    }

    pub fn effect_of(&self, name: &str) -> Effect {
        self.tool(name).map_or(Effect::AtMostOnce, Tool::effect)
    }

    pub fn labels_of(&self, name: &str) -> Labels {
        self.tool(name).map_or(ANYTHING, Tool::labels)
    }

    /// The hash of all the server says of a tool.
    pub fn pin_of(&self, name: &str) -> Option<&str> {
        self.tool(name).map(|tool| tool.pin.as_str())
    }

    /// Each server that is there and the version of the protocol it speaks.
    pub fn protocols(&self) -> Vec<(&str, &str)> {
        let there = self
            .servers
            .iter()
            .filter_map(|(name, server)| Some((name, server.as_ref().ok()?)));
        there
            .map(|(name, server)| (name.as_str(), server.protocol.as_str()))
            .collect()
    }

    fn tool(&self, name: &str) -> Option<&Tool> {
        let connection = self.servers.get(server_of(name)?)?.as_ref().ok()?;
        connection.tools.iter().find(|tool| tool.spec.name == name)
    }

    /// Why a call would be refused before anything is asked of a server. What a server says of its state is not among it.
    pub fn refusal(&self, name: &str, input: &Value) -> Option<ToolResult> {
        let wanted = server_of(name)?;
        if self.servers.get(wanted).is_some_and(Result::is_err) {
            return None;
        }
        let fault = match self.connection(name) {
            // One that is not of this run, or has ended.
            Err(fault) => fault,
            Ok(_) if self.tool(name).is_none() => format!("Unknown tool: {name}"),
            Ok(_) if !input.is_object() && !input.is_null() => "Invalid input: must be an object".to_owned(),
            Ok(_) => return None,
        };
        Some(ToolResult::failed(fault, 0.0))
    }

    /// Calls a tool.
    pub async fn call<W: Workspace>(
        &self,
        call: &Call<'_>,
        workspace: &W,
        cancel: &CancellationToken,
    ) -> Result<ToolResult, ToolError> {
        let (server, connection) = match self.connection(call.tool_name) {
            Ok(found) => found,
            Err(fault) => return Ok(ToolResult::failed(fault, 0.0)),
        };
        let Some(tool) = self.tool(call.tool_name) else {
            return Ok(ToolResult::failed(
                format!("Unknown tool: {}", call.tool_name),
                0.0,
            ));
        };
        let input = match call.tool_input {
            Value::Object(input) => input.clone(),
            Value::Null => serde_json::Map::new(),
            _ => return Ok(ToolResult::failed("Invalid input: must be an object", 0.0)),
        };
        let calling = tokio::time::timeout(self.call_limit, connection.call(&tool.remote, input));
        let answered = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ToolError::Cancelled),
            answered = calling => answered.unwrap_or_else(|_| {
                Err(CallFault::Lost(format!("no answer within {} s", self.call_limit.as_secs())))
            }),
        };
        match answered {
            Ok(answer) => Ok(result::taken(server, answer, call.step_id, workspace).await),
            Err(CallFault::Refused(said)) => {
                let said = naming::clean(&format!("MCP server {server}: {said}"));
                Ok(ToolResult::failed(said, result::CREDITS))
            }
            Err(CallFault::Lost(said)) => lost(
                naming::clean(&format!("MCP server {server}: {said}")),
                tool.effect(),
            ),
        }
    }

    fn connection(&self, name: &str) -> Result<(&str, &Connection), String> {
        let wanted = server_of(name).ok_or_else(|| format!("Unknown tool: {name}"))?;
        match self.servers.get_key_value(wanted) {
            None => Err(format!(
                "MCP server {wanted} is not one of this run: name it in mcp_servers"
            )),
            Some((_, Err(fault))) => Err(format!("MCP server {wanted} is not available: {fault}")),
            Some((_, Ok(connection))) if connection.is_closed() => {
                Err(format!("MCP server {wanted} is not available: it ended"))
            }
            Some((server, Ok(connection))) => Ok((server, connection)),
        }
    }
}

/// An answer that will not come: harmless for a tool that may be called again, and else not known to be done.
fn lost(said: String, effect: Effect) -> Result<ToolResult, ToolError> {
    match effect {
        Effect::AtMostOnce => Err(ToolError::Unknown(said)),
        Effect::Pure | Effect::Idempotent => Ok(ToolResult::failed(said, result::CREDITS)),
    }
}
