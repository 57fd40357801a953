//! What is set up of the tools that reach other systems, told to operators. No vendor is asked and nothing is started; only a
//! browser at its address is greeted.

use crate::browser::Browser;
use crate::launch::NoLauncher;
use crate::mcp::Mcp;
use crate::options::{SetupError, ToolOptions};
use std::sync::Arc;

const NO_SEARCH: &str =
    "not configured; set TAVILY_API_KEY, SERPER_API_KEY, BRAVE_API_KEY or SEARXNG_URL to have it";
const NO_CONNECTORS: &str =
    "not configured; set GITHUB_TOKEN, LINEAR_API_KEY or SLACK_BOT_TOKEN to have them";
const NO_BROWSER: &str = "not configured; set BROWSER_BIN=auto or BROWSER_CDP_URL to have it";
const NO_MCP: &str = "not configured; set MCP_SERVERS_FILE to have some";
const ADDRESS: &str = "give an http or https address without user name and password, or unset the setting";

/// One tool: what it is set to, or what is wrong with that.
#[derive(Debug)]
pub struct ToolLine {
    pub name: &'static str,
    /// What was looked at.
    pub tried: &'static str,
    pub result: Result<String, ToolFault>,
}

/// A setting that is broken.
#[derive(Debug)]
pub struct ToolFault {
    pub what: String,
    /// What to do.
    pub fix: &'static str,
}

type Told = Result<String, ToolFault>;

impl ToolOptions {
    /// A line for each of search, connectors, browser and MCP servers, and one for limits if one is wrong. `programs`: this
    /// worker's executor can start programs of tools.
    pub async fn overview(&self, programs: bool) -> Vec<ToolLine> {
        let line = |name, tried, result| ToolLine { name, tried, result };
        let limits = self.limit_faults().next().map(|what| {
            let fix = "correct the number, or unset the setting";
            line("tools", "read the limits", Err(ToolFault { what, fix }))
        });
        let browser = "look for BROWSER_BIN, or greet the browser at BROWSER_CDP_URL";
        let lines = [
            line("search", "read the settings (no call is made)", self.of_search()),
            line(
                "connectors",
                "read the settings (`agent-worker check tools` asks the vendors)",
                self.of_connectors(),
            ),
            line("browser", browser, self.of_browser(programs).await),
            line(
                "mcp",
                "read MCP_SERVERS_FILE (nothing is started)",
                self.of_mcp(programs),
            ),
        ];
        lines.into_iter().chain(limits).collect()
    }

    fn of_search(&self) -> Told {
        let vendor = self.search().map_err(|error| address(&error))?;
        Ok(vendor.map_or_else(
            || NO_SEARCH.to_owned(),
            |vendor| {
                format!(
                    "{} at {}",
                    vendor.name,
                    vendor.base.host_str().unwrap_or_default()
                )
            },
        ))
    }

    fn of_connectors(&self) -> Told {
        let mut names = vec![];
        for vendor in [self.github(), self.linear(), self.slack()] {
            names.extend(vendor.map_err(|error| address(&error))?.map(|vendor| vendor.name));
        }
        if names.is_empty() {
            return Ok(NO_CONNECTORS.to_owned());
        }
        Ok(format!(
            "{}, for runs whose connector_ids name them",
            names.join(", ")
        ))
    }

    async fn of_browser(&self, programs: bool) -> Told {
        let launcher = Arc::new(NoLauncher {
            reason: String::new(),
        });
        let browser = Browser::new(&self.browser, launcher);
        let given = self.browser.browser_bin.as_ref();
        if !browser.is_configured() {
            return match given.filter(|bin| !bin.as_os_str().is_empty()) {
                None => Ok(NO_BROWSER.to_owned()),
                Some(bin) => Err(ToolFault {
                    what: format!("BROWSER_BIN {}: no Chromium is installed", bin.display()),
                    fix: "apt-get install chromium, or name one with BROWSER_BIN, or unset it",
                }),
            };
        }
        let told = browser.check().await.map_err(|what| ToolFault {
            fix: if what.starts_with("BROWSER_CDP_URL") {
                "start a Chromium with --remote-debugging-port and set BROWSER_CDP_URL to http://HOST:PORT (HOST as digits or localhost: it refuses other names), or unset it"
            } else {
                "apt-get install chromium and set BROWSER_BIN=auto, or unset it"
            },
            what,
        })?;
        if browser.is_local() && !programs {
            return Err(ToolFault {
                what: "BROWSER_BIN is started only with TOOL_EXECUTOR=local".to_owned(),
                fix: "set TOOL_EXECUTOR=local, or BROWSER_CDP_URL in its place",
            });
        }
        Ok(told)
    }

    fn of_mcp(&self, programs: bool) -> Told {
        let launcher = Arc::new(NoLauncher {
            reason: String::new(),
        });
        let mcp = Mcp::load(&self.mcp, launcher).map_err(|fault| ToolFault {
            what: fault.to_string(),
            fix: "mend the file or the name, or unset MCP_SERVERS_FILE and MCP_DEFAULT_SERVERS",
        })?;
        let ours = mcp.programs();
        if !programs && !ours.is_empty() {
            return Err(ToolFault {
                what: format!(
                    "{}: programs are started only with TOOL_EXECUTOR=local",
                    ours.join(", ")
                ),
                fix: "set TOOL_EXECUTOR=local, or give each of them a url in MCP_SERVERS_FILE",
            });
        }
        Ok(if mcp.is_configured() {
            mcp.describe()
        } else {
            NO_MCP.to_owned()
        })
    }
}

fn address(error: &SetupError) -> ToolFault {
    ToolFault {
        what: error.to_string(),
        fix: ADDRESS,
    }
}
