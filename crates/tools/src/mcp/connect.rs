//! A connection to one server, of either era of the protocol: the stateless one is tried first, a server that does not know it
//! gets the handshake of the older ones.

use super::config::{Server, Way};
use super::tool::{Tool, pin_of};
use crate::launch::{LastWords, Launch, Launcher, Network, Size};
use http::HeaderValue;
use outbound::{Guard, Redirects};
use reqwest::{ClientBuilder, Url};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, Implementation,
    PaginatedRequestParams, ProtocolVersion,
};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransport, StreamableHttpClientTransportConfig,
};
use rmcp::{ClientLifecycleMode, ClientServiceExt as _, RoleClient};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Largest message of a server.
const LARGEST_MESSAGE: usize = 16 * 1024 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most tools taken from a server, and most pages they may be listed on.
const MOST_TOOLS: usize = 128;
const MOST_PAGES: usize = 32;

type Service = RunningService<RoleClient, ClientConfig>;

/// A server in use. Dropped, its program or session ends.
pub(super) struct Connection {
    service: Service,
    pub tools: Vec<Tool>,
    /// The version agreed on.
    pub protocol: String,
    words: Option<LastWords>,
    /// Of a server that is reached over HTTP.
    address: Option<Url>,
    _alive: Option<Box<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tools, protocol, .. } = self;
        formatter
            .debug_struct("Connection")
            .field("protocol", protocol)
            .field("tools", &tools.len())
            .finish_non_exhaustive()
    }
}

fn client() -> ClientConfig {
    let name = Implementation::new("agent-runtime", env!("CARGO_PKG_VERSION"));
    // None of the capabilities: a server asks nobody here for anything.
    ClientConfig::new(ClientCapabilities::default(), name)
        .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
}

fn both_eras() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
    }
}

/// Starts or reaches a server and asks for its tools.
///
/// # Errors
/// One sentence, without secrets.
pub(super) async fn connect(
    name: &str,
    server: &Server,
    launcher: &dyn Launcher,
) -> Result<Connection, String> {
    let mut connection = match &server.way {
        Way::Program { .. } => start(&server.way, launcher).await?,
        Way::Http { .. } => reach(&server.way).await?,
    };
    let listed = connection.list(name).await;
    connection.tools = match listed {
        Ok(tools) => tools,
        Err(error) => return Err(connection.blame(&error).await),
    };
    let pin = pin_of(&connection.tools);
    tracing::info!(
        server = name,
        protocol = connection.protocol,
        tools = connection.tools.len(),
        pin,
        "MCP server"
    );
    match &server.pin {
        Some(agreed) if *agreed != pin => Err(format!(
            "its tools are not those of its pin: it has {pin} now, look at them and change the pin in MCP_SERVERS_FILE"
        )),
        _ => Ok(connection),
    }
}

async fn start(way: &Way, launcher: &dyn Launcher) -> Result<Connection, String> {
    let Way::Program {
        argv,
        env,
        network,
        readable,
    } = way
    else {
        return Err("not a program".to_owned());
    };
    let exposed =
        |(name, value): &(String, secrecy::SecretString)| (name.clone(), value.expose_secret().to_owned());
    let launch = Launch {
        size: Size::Server,
        argv: argv.clone(),
        env: env.iter().map(exposed).collect(),
        network: if *network { Network::Host } else { Network::None },
        readable: readable.clone(),
    };
    let running = launcher.launch(launch).await.map_err(|fault| fault.to_string())?;
    let words = LastWords::of(running.stderr);
    let transport =
        AsyncRwTransport::new_client(running.stdout, running.stdin).with_max_line_length(LARGEST_MESSAGE);
    let served = client().serve_with_lifecycle(transport, both_eras()).await;
    match served {
        Ok(service) => Ok(Connection::over(service, Some(words), Some(running.alive))),
        Err(error) => Err(with_words(&causes(&error, None), &words).await),
    }
}

async fn reach(way: &Way) -> Result<Connection, String> {
    let Way::Http { url, headers, .. } = way else {
        return Err("not an address".to_owned());
    };
    // Where the operator's address sends us on to is not the operator's word any more.
    let builder = ClientBuilder::new().connect_timeout(CONNECT_LIMIT);
    let http = Guard::new(false)
        .trusting([url])
        .client(builder, Redirects::SameOrigin);
    let http = http.map_err(|error| error.to_string())?;
    let mut own = HashMap::new();
    for (name, value) in headers {
        let mut value =
            HeaderValue::from_str(value.expose_secret()).map_err(|_| "a header cannot be sent")?;
        value.set_sensitive(true);
        own.insert(name.clone(), value);
    }
    let config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
        .custom_headers(own)
        .max_sse_event_size(LARGEST_MESSAGE);
    let transport = StreamableHttpClientTransport::with_client(http, config);
    let served = client().serve_with_lifecycle(transport, both_eras()).await;
    let service = served.map_err(|error| causes(&error, Some(url)))?;
    let connection = Connection::over(service, None, None);
    Ok(Connection {
        address: Some(url.clone()),
        ..connection
    })
}

/// An error and what is behind it, each said once, without the address: there may be a key in it.
fn causes(error: &dyn Error, address: Option<&Url>) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    if let Some(address) = address {
        said = said.replace(address.as_str(), "its address");
        if let Some(query) = address.query().filter(|query| !query.is_empty()) {
            said = said.replace(query, "…");
        }
    }
    said.chars().take(500).collect()
}

async fn with_words(said: &str, words: &LastWords) -> String {
    match words.line().await {
        line if line.is_empty() => said.to_owned(),
        line => format!("{said} ({line})"),
    }
}

/// How a call failed.
#[derive(Debug)]
pub(super) enum CallFault {
    /// The server refused it.
    Refused(String),
    /// No answer came, and none will.
    Lost(String),
}

impl Connection {
    fn over(service: Service, words: Option<LastWords>, alive: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let protocol = service
            .peer()
            .peer_info()
            .map(|info| info.protocol_version.to_string());
        Self {
            service,
            tools: vec![],
            protocol: protocol.unwrap_or_default(),
            words,
            address: None,
            _alive: alive,
        }
    }

    async fn list(&self, server: &str) -> Result<Vec<Tool>, ServiceError> {
        let (mut tools, mut taken, mut cursor) = (Vec::new(), HashSet::new(), None);
        for _ in 0..MOST_PAGES {
            let mut page = PaginatedRequestParams::default();
            page.cursor = cursor;
            let listed = self.service.peer().list_tools(Some(page)).await?;
            for listed in &listed.tools {
                let tool = Tool::of(server, listed).filter(|tool| taken.insert(tool.spec.name.clone()));
                match tool {
                    Some(tool) if tools.len() < MOST_TOOLS => tools.push(tool),
                    _ => tracing::warn!(
                        server,
                        "a tool is left out: too many, too large, or its name is taken"
                    ),
                }
            }
            cursor = listed.next_cursor;
            if cursor.is_none() || tools.len() >= MOST_TOOLS {
                break;
            }
        }
        Ok(tools)
    }

    /// Calls a tool; dropped, the call is cancelled at the server.
    pub(super) async fn call(
        &self,
        tool: &str,
        input: Map<String, Value>,
    ) -> Result<rmcp::model::CallToolResult, CallFault> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(input);
        match self.service.call_tool_once(params).await {
            Ok(CallToolResponse::Complete(result)) => Ok(result),
            Ok(CallToolResponse::InputRequired(_)) => Err(CallFault::Refused(
                "it asks for input in between, which is not possible here".to_owned(),
            )),
            Ok(_) => Err(CallFault::Refused(
                "it answers with a task, which is not possible here".to_owned(),
            )),
            Err(ServiceError::McpError(error)) => Err(CallFault::Refused(error.message.to_string())),
            Err(error) => Err(CallFault::Lost(self.blame(&error).await)),
        }
    }

    /// An error with the last words of the program.
    async fn blame(&self, error: &ServiceError) -> String {
        let said = match error {
            ServiceError::TransportClosed => "the server ended".to_owned(),
            other => causes(other, self.address.as_ref()),
        };
        match &self.words {
            Some(words) => with_words(&said, words).await,
            None => said,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.service.is_closed() || self.service.peer().is_transport_closed()
    }
}

/// For those who only need the launcher's type.
pub(super) type AnyLauncher = Arc<dyn Launcher>;
