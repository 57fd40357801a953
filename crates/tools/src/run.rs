//! The tools of a worker and of one run: which names are theirs, what a call may do, and where it goes.

use crate::browser::{self, Browser, BrowserOfRun};
use crate::clean;
use crate::connector::{Connectors, only_reads};
use crate::fetch::Fetch;
use crate::launch::{Launcher, NoLauncher};
use crate::mcp::{Mcp, McpOfRun};
use crate::options::{SetupError, ToolOptions};
use crate::search::Search;
use crate::unconfigured;
use agent::ports::{RemoteTools, ToolSpec, Workspace};
use agent::tools::{Call, ToolError};
use domain::{Effect, Labels, Storable as _, ToolResult};
use outbound::Guard;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The tools of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tools {
    shared: Arc<Shared>,
    browser: Arc<Browser>,
    mcp: Arc<Mcp>,
}

#[derive(Debug)]
struct Shared {
    search: Search,
    fetch: Fetch,
    connectors: Connectors,
}

/// What the tools need to know of a run.
#[derive(Debug)]
pub struct OfRun<W> {
    /// The connectors that the run may use, by type.
    pub connector_ids: Vec<String>,
    /// The run's files.
    pub workspace: W,
}

/// The tools of one drive of a run; what they hold open ends with the value.
#[derive(Debug)]
pub struct RunTools<W> {
    tools: Tools,
    run: OfRun<W>,
    browser: BrowserOfRun,
    mcp: McpOfRun,
}

impl Tools {
    /// Makes them; no network.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub fn from_options(options: &ToolOptions) -> Result<Self, SetupError> {
        let fetch = Fetch::new(options)?;
        Self::with_fetch(options, fetch)
    }

    /// With another guard for pages, for tests of names that change their address.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub fn with_guard(options: &ToolOptions, guard: Guard) -> Result<Self, SetupError> {
        let fetch = Fetch::with_guard(options, guard)?;
        Self::with_fetch(options, fetch)
    }

    fn with_fetch(options: &ToolOptions, fetch: Fetch) -> Result<Self, SetupError> {
        let launcher: Arc<dyn Launcher> = Arc::new(NoLauncher {
            reason: "nothing can be isolated here".to_owned(),
        });
        let mcp = Mcp::load(&options.mcp, launcher.clone());
        Ok(Self {
            shared: Arc::new(Shared {
                search: Search::new(options)?,
                fetch,
                connectors: Connectors::new(options)?,
            }),
            browser: Arc::new(Browser::new(&options.browser, launcher)),
            mcp: Arc::new(mcp?),
        })
    }

    /// With somebody who starts browsers and servers; without, only those that run already are of use.
    #[must_use]
    pub fn with_launcher(self, launcher: Arc<dyn Launcher>) -> Self {
        Self {
            browser: Arc::new(self.browser.with_launcher(launcher.clone())),
            mcp: Arc::new(self.mcp.with_launcher(launcher)),
            ..self
        }
    }

    /// The MCP servers there are.
    pub fn mcp(&self) -> &Mcp {
        &self.mcp
    }

    /// One line per tool that is set up; connectors are asked whether they know their token, a browser is looked for. A search
    /// would cost.
    pub async fn check(&self) -> Vec<(String, Result<String, String>)> {
        let browser = if self.browser.is_configured() {
            Some(self.browser.check().await)
        } else {
            None
        };
        let servers = self.mcp.is_configured().then(|| Ok(self.mcp.describe()));
        let ours = [("browser", browser), ("MCP servers", servers)];
        let ours = ours
            .into_iter()
            .filter_map(|(name, said)| Some((name.to_owned(), said?)));
        let search = self
            .shared
            .search
            .describe()
            .map(|said| ("search".to_owned(), Ok(said)));
        let connectors = self.shared.connectors.check().await;
        let connectors = connectors
            .into_iter()
            .map(|(name, result)| (format!("connector {name}"), result));
        search.into_iter().chain(connectors).chain(ours).collect()
    }

    pub fn of_run<W: Workspace>(&self, run: OfRun<W>) -> RunTools<W> {
        RunTools {
            tools: self.clone(),
            run,
            browser: BrowserOfRun::new(self.browser.clone()),
            mcp: McpOfRun::default(),
        }
    }
}

impl<W> RunTools<W> {
    /// With the MCP servers of the run, which are connected for one drive.
    #[must_use]
    pub fn with_mcp(self, mcp: McpOfRun) -> Self {
        Self { mcp, ..self }
    }
}

/// A name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Search,
    Fetch,
    Connector,
    Browser,
    Mcp,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        match name {
            "search" => Some(Self::Search),
            "fetch" => Some(Self::Fetch),
            "connector" => Some(Self::Connector),
            "browser" => Some(Self::Browser),
            name if McpOfRun::claims(name) => Some(Self::Mcp),
            _ => None,
        }
    }
}

impl<W: Workspace> RemoteTools for RunTools<W> {
    /// Only what is set up: a tool that can do nothing would be tried in vain.
    fn specs(&self) -> Vec<ToolSpec> {
        let shared = &self.tools.shared;
        let fetch = Some(shared.fetch.spec());
        let connectors = shared.connectors.spec(&self.run.connector_ids);
        let browser = self.tools.browser.is_configured().then(browser::spec);
        [shared.search.spec(), fetch, connectors, browser]
            .into_iter()
            .flatten()
            .chain(self.mcp.specs())
            .collect()
    }

    fn effect_of(&self, tool_name: &str, tool_input: &Value) -> Option<Effect> {
        Some(match Kind::of(tool_name)? {
            Kind::Search | Kind::Fetch => Effect::Pure,
            Kind::Connector if only_reads(tool_input) => Effect::Pure,
            Kind::Connector | Kind::Browser => Effect::AtMostOnce,
            Kind::Mcp => self.mcp.effect_of(tool_name),
        })
    }

    fn labels_of(&self, tool_name: &str, tool_input: &Value) -> Labels {
        match Kind::of(tool_name) {
            None => Labels::default(),
            Some(Kind::Connector) if only_reads(tool_input) => labels(true, true, false),
            Some(Kind::Connector) => labels(false, false, true),
            // What they send out can carry data: the words of a query, the path of an address.
            Some(Kind::Search | Kind::Fetch) => labels(true, false, true),
            Some(Kind::Browser) => browser::labels_of(tool_input),
            Some(Kind::Mcp) => self.mcp.labels_of(tool_name),
        }
    }

    fn pin_of(&self, tool_name: &str) -> Option<String> {
        self.mcp.pin_of(tool_name).map(str::to_owned)
    }

    fn refusal(&self, call: &Call<'_>) -> Option<ToolResult> {
        let (shared, input) = (&self.tools.shared, call.tool_input);
        let refusal = match Kind::of(call.tool_name)? {
            Kind::Search => *shared.search.question(input).err()?,
            Kind::Fetch => *shared.fetch.asked(input).err()?,
            Kind::Connector => *shared.connectors.prepared(call, &self.run.connector_ids).err()?,
            Kind::Browser if !self.tools.browser.is_configured() => unconfigured::browser(input),
            Kind::Browser => browser::refusal(input)?,
            Kind::Mcp => self.mcp.refusal(call.tool_name, input)?,
        };
        Some(refusal.storable())
    }

    async fn call(&self, call: &Call<'_>, cancel: &CancellationToken) -> Result<ToolResult, ToolError> {
        let work = async {
            let shared = &self.tools.shared;
            match Kind::of(call.tool_name) {
                Some(Kind::Search) => Ok(shared.search.call(call.tool_input).await),
                Some(Kind::Fetch) => Ok(shared.fetch.call(call.tool_input).await),
                Some(Kind::Connector) => shared.connectors.call(call, &self.run.connector_ids).await,
                Some(Kind::Browser) if !self.tools.browser.is_configured() => {
                    Ok(unconfigured::browser(call.tool_input))
                }
                Some(Kind::Browser) => self.browser.call(call, &self.run.workspace, cancel).await,
                Some(Kind::Mcp) => self.mcp.call(call, &self.run.workspace, cancel).await,
                None => Ok(ToolResult::failed(
                    format!("Unknown tool: {}", call.tool_name),
                    0.0,
                )),
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ToolError::Cancelled),
            result = work => clean::answered(result),
        }
    }
}

const fn labels(reads_untrusted: bool, reads_private: bool, acts_outside: bool) -> Labels {
    Labels {
        reads_untrusted,
        reads_private,
        acts_outside,
    }
}
