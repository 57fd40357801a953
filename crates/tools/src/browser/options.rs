//! Settings of the browser.

use std::path::PathBuf;

/// Of the tool `browser`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct BrowserOptions {
    /// Debugging address of a running Chromium (http or ws) for the tool browser
    #[arg(long, env = "BROWSER_CDP_URL", hide_env_values = true)]
    pub browser_cdp_url: Option<String>,
    /// Without BROWSER_CDP_URL: a Chromium to start in a sandbox; auto is the first installed one [default: none]
    #[arg(long, env = "BROWSER_BIN")]
    pub browser_bin: Option<PathBuf>,
    /// Let the browser open loopback, private and link-local addresses
    #[arg(long, env = "BROWSER_ALLOW_PRIVATE", default_value_t = false, action = clap::ArgAction::Set)]
    pub browser_allow_private: bool,
}
