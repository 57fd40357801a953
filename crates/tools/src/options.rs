//! Settings of the tools. An empty value counts as absent.

use crate::browser::BrowserOptions;
use crate::mcp::{ConfigFault, McpOptions};
use outbound::Guard;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use std::time::Duration;

const TAVILY_URL: &str = "https://api.tavily.com";
const SERPER_URL: &str = "https://google.serper.dev";
const BRAVE_URL: &str = "https://api.search.brave.com";
const GITHUB_URL: &str = "https://api.github.com";
const LINEAR_URL: &str = "https://api.linear.app/graphql";
const SLACK_URL: &str = "https://slack.com/api";

/// Largest limits that can be set.
const LARGEST_FETCH: u64 = 32 * 1024 * 1024;
const LONGEST_SECONDS: u64 = 600;

/// What reaches other systems, and with which keys.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Tools that reach other systems")]
pub struct ToolOptions {
    /// Key of Tavily; search asks the first of Tavily, Serper, Brave and SearXNG that is set
    #[arg(long, env = "TAVILY_API_KEY", hide_env_values = true)]
    pub tavily_api_key: Option<SecretString>,
    /// Address of Tavily [default: `https://api.tavily.com`]
    #[arg(long, env = "TAVILY_API_URL")]
    pub tavily_api_url: Option<String>,
    /// Key of Serper
    #[arg(long, env = "SERPER_API_KEY", hide_env_values = true)]
    pub serper_api_key: Option<SecretString>,
    /// Address of Serper [default: `https://google.serper.dev`]
    #[arg(long, env = "SERPER_API_URL")]
    pub serper_api_url: Option<String>,
    /// Key of Brave Search
    #[arg(long, env = "BRAVE_API_KEY", hide_env_values = true)]
    pub brave_api_key: Option<SecretString>,
    /// Address of Brave Search [default: `https://api.search.brave.com`]
    #[arg(long, env = "BRAVE_API_URL")]
    pub brave_api_url: Option<String>,
    /// Address of a SearXNG server whose JSON format is on; needs no key
    #[arg(long, env = "SEARXNG_URL")]
    pub searxng_url: Option<String>,
    /// Token of the connector github
    #[arg(long, env = "GITHUB_TOKEN", hide_env_values = true)]
    pub github_token: Option<SecretString>,
    /// Address of GitHub's API [default: `https://api.github.com`]
    #[arg(long, env = "GITHUB_API_URL")]
    pub github_api_url: Option<String>,
    /// Key of the connector linear
    #[arg(long, env = "LINEAR_API_KEY", hide_env_values = true)]
    pub linear_api_key: Option<SecretString>,
    /// Address of Linear's API [default: `https://api.linear.app/graphql`]
    #[arg(long, env = "LINEAR_API_URL")]
    pub linear_api_url: Option<String>,
    /// Token of the connector slack
    #[arg(long, env = "SLACK_BOT_TOKEN", hide_env_values = true)]
    pub slack_bot_token: Option<SecretString>,
    /// Address of Slack's API [default: `https://slack.com/api`]
    #[arg(long, env = "SLACK_API_URL")]
    pub slack_api_url: Option<String>,
    /// Longest time of a call to a search or connector vendor, in seconds
    #[arg(long, env = "VENDOR_TIMEOUT_SECONDS", default_value_t = 30)]
    pub vendor_timeout_seconds: u64,
    /// Largest page that fetch reads, in bytes
    #[arg(long, env = "FETCH_MAX_BYTES", default_value_t = 1_048_576)]
    pub fetch_max_bytes: u64,
    /// Longest time of a fetch, redirects included, in seconds
    #[arg(long, env = "FETCH_TIMEOUT_SECONDS", default_value_t = 30)]
    pub fetch_timeout_seconds: u64,
    /// Let fetch read loopback, private and link-local addresses
    #[arg(long, env = "FETCH_ALLOW_PRIVATE", default_value_t = false, action = clap::ArgAction::Set)]
    pub fetch_allow_private: bool,
    #[command(flatten)]
    pub browser: BrowserOptions,
    #[command(flatten)]
    pub mcp: McpOptions,
}

/// Why the tools cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{setting}: {fault}")]
    Setting { setting: &'static str, fault: String },
    #[error(transparent)]
    Mcp(#[from] ConfigFault),
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
}

/// A vendor that is set up: who, where, and with which key.
#[derive(Debug, Clone)]
pub(crate) struct Vendor {
    pub(crate) name: &'static str,
    pub(crate) base: Url,
    /// None where the vendor takes none.
    pub(crate) key: Option<SecretString>,
}

impl ToolOptions {
    /// What of these settings must never be shown.
    pub fn secrets(&self) -> Vec<String> {
        let keys = [
            &self.tavily_api_key,
            &self.serper_api_key,
            &self.brave_api_key,
            &self.github_token,
            &self.linear_api_key,
            &self.slack_bot_token,
        ];
        let present = keys.into_iter().filter_map(|key| present(key.as_ref()));
        let keys = present.map(|key| key.expose_secret().to_owned());
        // An address for debugging often has its key in it.
        keys.chain(self.browser.browser_cdp_url.clone())
            .chain(self.mcp.secrets())
            .filter(|secret| !secret.trim().is_empty())
            .collect()
    }

    /// Faults of values, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let urls = [
            ("TAVILY_API_URL", &self.tavily_api_url),
            ("SERPER_API_URL", &self.serper_api_url),
            ("BRAVE_API_URL", &self.brave_api_url),
            ("SEARXNG_URL", &self.searxng_url),
            ("GITHUB_API_URL", &self.github_api_url),
            ("LINEAR_API_URL", &self.linear_api_url),
            ("SLACK_API_URL", &self.slack_api_url),
        ];
        let of_urls = urls.into_iter().filter_map(|(setting, value)| {
            let fault = address(setting, value.as_deref(), GITHUB_URL).err()?;
            Some(fault.to_string())
        });
        let of_mcp = self.mcp.fault().map(|fault| fault.to_string());
        of_urls.chain(self.limit_faults()).chain(of_mcp).collect()
    }

    /// Of numbers.
    pub(crate) fn limit_faults(&self) -> impl Iterator<Item = String> + use<> {
        let limits = [
            (
                "VENDOR_TIMEOUT_SECONDS",
                self.vendor_timeout_seconds,
                LONGEST_SECONDS,
            ),
            (
                "FETCH_TIMEOUT_SECONDS",
                self.fetch_timeout_seconds,
                LONGEST_SECONDS,
            ),
            ("FETCH_MAX_BYTES", self.fetch_max_bytes, LARGEST_FETCH),
        ];
        limits
            .into_iter()
            .filter(|(_, value, largest)| !(1..=*largest).contains(value))
            .map(|(setting, _, largest)| format!("{setting}: must be 1 to {largest}"))
    }

    /// The search vendor: the first whose key, or address, is set.
    pub(crate) fn search(&self) -> Result<Option<Vendor>, SetupError> {
        for (name, setting, key, url, default) in [
            (
                "tavily",
                "TAVILY_API_URL",
                &self.tavily_api_key,
                &self.tavily_api_url,
                TAVILY_URL,
            ),
            (
                "serper",
                "SERPER_API_URL",
                &self.serper_api_key,
                &self.serper_api_url,
                SERPER_URL,
            ),
            (
                "brave",
                "BRAVE_API_URL",
                &self.brave_api_key,
                &self.brave_api_url,
                BRAVE_URL,
            ),
        ] {
            if let Some(vendor) = vendor((name, setting), key.as_ref(), url.as_deref(), default)? {
                return Ok(Some(vendor));
            }
        }
        if filled(self.searxng_url.as_deref()).is_none() {
            return Ok(None);
        }
        Ok(Some(Vendor {
            name: "searxng",
            base: address("SEARXNG_URL", self.searxng_url.as_deref(), "")?,
            key: None,
        }))
    }

    pub(crate) fn github(&self) -> Result<Option<Vendor>, SetupError> {
        let url = self.github_api_url.as_deref();
        vendor(
            ("github", "GITHUB_API_URL"),
            self.github_token.as_ref(),
            url,
            GITHUB_URL,
        )
    }

    pub(crate) fn linear(&self) -> Result<Option<Vendor>, SetupError> {
        let url = self.linear_api_url.as_deref();
        vendor(
            ("linear", "LINEAR_API_URL"),
            self.linear_api_key.as_ref(),
            url,
            LINEAR_URL,
        )
    }

    pub(crate) fn slack(&self) -> Result<Option<Vendor>, SetupError> {
        let url = self.slack_api_url.as_deref();
        vendor(
            ("slack", "SLACK_API_URL"),
            self.slack_bot_token.as_ref(),
            url,
            SLACK_URL,
        )
    }

    pub(crate) const fn vendor_limit(&self) -> Duration {
        Duration::from_secs(self.vendor_timeout_seconds)
    }

    pub(crate) const fn fetch_limit(&self) -> Duration {
        Duration::from_secs(self.fetch_timeout_seconds)
    }

    /// The guard of what a model points at.
    pub(crate) fn fetch_guard(&self) -> Guard {
        Guard::new(self.fetch_allow_private)
    }
}

fn vendor(
    (name, setting): (&'static str, &'static str),
    key: Option<&SecretString>,
    url: Option<&str>,
    default: &str,
) -> Result<Option<Vendor>, SetupError> {
    let Some(key) = present(key) else {
        return Ok(None);
    };
    Ok(Some(Vendor {
        name,
        base: address(setting, url, default)?,
        key: Some(key.clone()),
    }))
}

fn address(setting: &'static str, given: Option<&str>, default: &str) -> Result<Url, SetupError> {
    let wrong = |fault: String| SetupError::Setting { setting, fault };
    let url = Url::parse(filled(given).unwrap_or(default)).map_err(|fault| wrong(fault.to_string()))?;
    // An address that may lead anywhere, still without the odd forms.
    Guard::new(true)
        .check(&url)
        .map_err(|_| wrong("must be http or https, without user name and password".to_owned()))?;
    Ok(url)
}

fn filled(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|text| !text.is_empty())
}

fn present(value: Option<&SecretString>) -> Option<&SecretString> {
    value.filter(|value| !value.expose_secret().trim().is_empty())
}
