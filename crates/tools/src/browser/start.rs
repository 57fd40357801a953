//! Where the browser of a session comes from: a local Chromium in a sandbox, or a remote one ([`super::remote`]).

use super::actions::{Done, navigate, run};
use super::cdp::Cdp;
use super::input::{Action, Input};
use super::options::BrowserOptions;
use super::page::{Fault, Page};
use super::{remote, wire};
use crate::launch::{LastWords, Launch, LaunchFault, Launcher, Network, PROXY_HERE, SCRATCH_HERE, Size};
use outbound::{Guard, ProxyService};
use std::any::Any;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// Names a Chromium goes by.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const DIRS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];
/// `BROWSER_BIN` that stands for whichever is found first.
const AUTO: &str = "auto";
/// Standard input and output become the two pipes of the debugging protocol.
const WITH_PIPES: &str = r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#;
const ARGUMENTS: [&str; 27] = [
    "--headless=new",
    // It cannot build its own sandbox inside of ours, where nothing may be namespaced again.
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-component-extensions-with-background-pages",
    "--disable-client-side-phishing-detection",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--disable-domain-reliability",
    "--no-pings",
    "--mute-audio",
    "--hide-scrollbars",
    "--metrics-recording-only",
    "--password-store=basic",
    "--use-mock-keychain",
    "--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,InterestFeedContentSuggestions",
    // Nothing but the proxy: neither loopback past it nor datagrams.
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
];

#[derive(Debug, Clone)]
enum How {
    /// Says what to set.
    Not,
    Local(PathBuf),
    Remote(String),
}

/// How this worker comes to browsers.
#[derive(Debug, Clone)]
pub struct Browser {
    how: How,
    guard: Guard,
    launcher: Arc<dyn Launcher>,
}

/// An open page and the browser below it.
pub(super) struct Session {
    pub page: Page,
    proxy: Option<ProxyService>,
    _alive: Option<Box<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Carries an action out, after the page it names besides.
    pub(super) async fn run(&self, input: &Input, until: Instant) -> Result<Done, Fault> {
        let refused = self.refused();
        let done = self.steps(input, until).await;
        let led_inside = self.refused() > refused && opens(input);
        match done {
            // The proxy's own refusal, shown by the browser as a page or as an error.
            Ok(done) if led_inside && done.output["status"] == 403 => {
                self.page.leave().await?;
                Err(Fault::NotAllowed)
            }
            Err(Fault::NotLoaded(_)) if led_inside => Err(Fault::NotAllowed),
            done => done,
        }
    }

    async fn steps(&self, input: &Input, until: Instant) -> Result<Done, Fault> {
        if let Some(url) = &input.url
            && self.page.place().await?.url != *url
        {
            navigate(&self.page, url, until).await?;
        }
        run(&self.page, &input.action, until).await
    }

    fn refused(&self) -> u64 {
        self.proxy.as_ref().map_or(0, ProxyService::refused)
    }
}

fn opens(input: &Input) -> bool {
    input.url.is_some() || matches!(input.action, Action::Navigate { .. })
}

impl Browser {
    pub fn new(options: &BrowserOptions, launcher: Arc<dyn Launcher>) -> Self {
        let url = options
            .browser_cdp_url
            .as_ref()
            .filter(|url| !url.trim().is_empty());
        let bin = options
            .browser_bin
            .as_ref()
            .filter(|bin| !bin.as_os_str().is_empty());
        let how = match (url, bin) {
            (Some(url), _) => How::Remote(url.clone()),
            (None, Some(bin)) => found(bin).map_or(How::Not, How::Local),
            (None, None) => How::Not,
        };
        Self {
            how,
            guard: Guard::new(options.browser_allow_private),
            launcher,
        }
    }

    /// With another guard: another resolver.
    #[must_use]
    pub fn with_guard(self, guard: Guard) -> Self {
        Self { guard, ..self }
    }

    /// With somebody else who starts programs.
    #[must_use]
    pub fn with_launcher(&self, launcher: Arc<dyn Launcher>) -> Self {
        Self {
            launcher,
            ..self.clone()
        }
    }

    pub fn is_configured(&self) -> bool {
        !matches!(self.how, How::Not)
    }

    /// Whether it is started here.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.how, How::Local(_))
    }

    /// For the log and for `check`; no addresses, which may hold secrets.
    pub fn describe(&self) -> String {
        match &self.how {
            How::Not => "not configured: set BROWSER_CDP_URL or BROWSER_BIN".to_owned(),
            How::Local(bin) => format!("{} in a sandbox", bin.display()),
            How::Remote(_) => "remote at BROWSER_CDP_URL".to_owned(),
        }
    }

    /// Whether there is a browser: its program, or an answer at its address. Nothing is started.
    pub(crate) async fn check(&self) -> Result<String, String> {
        match &self.how {
            How::Not => {}
            How::Local(bin) => {
                is_program(bin).map_err(|fault| format!("BROWSER_BIN {}: {fault}", bin.display()))?;
            }
            How::Remote(url) => {
                let told = remote::version(url).await;
                let told = told.map_err(|fault| format!("BROWSER_CDP_URL: {fault}"))?;
                return Ok(format!("{told} answers at BROWSER_CDP_URL"));
            }
        }
        Ok(self.describe())
    }

    /// Starts or reaches a browser and opens a page in it.
    pub(super) async fn start(&self, until: Instant) -> Result<Session, LaunchFault> {
        let started = async {
            match &self.how {
                How::Not => Err(LaunchFault(self.describe())),
                How::Local(bin) => self.local(bin).await,
                How::Remote(url) => self.remote(url).await,
            }
        };
        let late = |_| LaunchFault("it did not start in time".to_owned());
        timeout_at(until, started).await.map_err(late)?
    }

    async fn local(&self, bin: &Path) -> Result<Session, LaunchFault> {
        let fault = |error: &dyn std::fmt::Display| LaunchFault(error.to_string());
        let proxy = ProxyService::new(self.guard.clone()).map_err(|error| fault(&error))?;
        let launched = self
            .launcher
            .launch(Launch {
                size: Size::Browser,
                argv: command(bin),
                env: vec![],
                network: Network::Proxy(proxy.clone()),
                readable: vec![],
            })
            .await?;
        let words = LastWords::of(launched.stderr);
        let cdp = Cdp::over(wire::pipe(launched.stdout, launched.stdin));
        match Page::open(cdp, self.guard.clone(), false).await {
            Ok(page) => Ok(Session {
                page,
                proxy: Some(proxy),
                _alive: Some(launched.alive),
            }),
            Err(error) => Err(LaunchFault(format!("{error}: {}", words.line().await))),
        }
    }

    async fn remote(&self, url: &str) -> Result<Session, LaunchFault> {
        let fault = |error: String| LaunchFault(format!("BROWSER_CDP_URL: {error}"));
        let cdp = remote::reached(url).await.map_err(fault)?;
        let page = Page::open(cdp, self.guard.clone(), true).await;
        Ok(Session {
            page: page.map_err(|error| fault(error.to_string()))?,
            proxy: None,
            _alive: None,
        })
    }
}

fn command(bin: &Path) -> Vec<String> {
    let fixed = ["/bin/sh", "-c", WITH_PIPES, "sh"].map(str::to_owned);
    let own = [
        bin.display().to_string(),
        format!("--user-data-dir={SCRATCH_HERE}/profile"),
        format!("--proxy-server=http://{PROXY_HERE}"),
    ];
    fixed
        .into_iter()
        .chain(own)
        .chain(ARGUMENTS.map(str::to_owned))
        .chain(["about:blank".to_owned()])
        .collect()
}

fn is_program(bin: &Path) -> std::io::Result<()> {
    let meta = std::fs::metadata(bin)?;
    if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(std::io::Error::other("is no program"))
}

fn found(bin: &Path) -> Option<PathBuf> {
    if bin != Path::new(AUTO) {
        return Some(bin.to_owned());
    }
    let places = NAMES
        .iter()
        .flat_map(|name| DIRS.map(|dir| Path::new(dir).join(name)));
    places.into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_one_way_out() {
        let command = command(Path::new("/usr/bin/chromium"));
        assert!(command.contains(&"--proxy-server=http://{proxy}".to_owned()));
        assert!(command.contains(&"--proxy-bypass-list=<-loopback>".to_owned()));
        assert!(
            command
                .iter()
                .all(|argument| !argument.contains("remote-debugging-port"))
        );
    }
}
