//! Where the browser of a session comes from: a local Chromium in a sandbox, or a remote one at its debugging address.

use super::actions::{Done, navigate, run};
use super::cdp::Cdp;
use super::input::{Action, Input};
use super::options::BrowserOptions;
use super::page::{Fault, Page};
use super::wire;
use crate::launch::{LastWords, Launch, LaunchFault, Launcher, Network, PROXY_HERE, SCRATCH_HERE, Size};
use outbound::{Guard, ProxyService, Redirects};
use reqwest::{ClientBuilder, Url};
use serde_json::Value;
use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Names a Chromium goes by.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const DIRS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/bin"];
/// `BROWSER_BIN` that stands for whichever is found first.
const AUTO: &str = "auto";
const ASK_LIMIT: Duration = Duration::from_secs(10);
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

    /// For the log and for `check`; no addresses, which may hold secrets.
    pub fn describe(&self) -> String {
        match &self.how {
            How::Not => "not configured: set BROWSER_CDP_URL or BROWSER_BIN".to_owned(),
            How::Local(bin) => format!("{} in a sandbox", bin.display()),
            How::Remote(_) => "remote at BROWSER_CDP_URL".to_owned(),
        }
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
        let socket = socket_of(url).await.map_err(fault)?;
        let cdp = Cdp::over(wire::socket(&socket).await.map_err(fault)?);
        let page = Page::open(cdp, self.guard.clone(), true).await;
        Ok(Session {
            page: page.map_err(|error| fault(error.to_string()))?,
            proxy: None,
            _alive: None,
        })
    }
}

/// The address of the socket: given as such, or asked for as debugging clients do.
async fn socket_of(url: &str) -> Result<String, String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    match url.scheme() {
        "ws" => return Ok(url.into()),
        "http" => {}
        other => return Err(format!("{other} is not supported: http or ws")),
    }
    let about = url.join("/json/version").map_err(|error| error.to_string())?;
    let client = Guard::new(false)
        .trusting([&url])
        .client(ClientBuilder::new().timeout(ASK_LIMIT), Redirects::No);
    let client = client.map_err(|error| error.to_string())?;
    let answer = client
        .get(about)
        .send()
        .await
        .map_err(|error| error.to_string())?;
    let body = outbound::read_body(answer, 64 * 1024, Instant::now() + ASK_LIMIT).await;
    let body = body.map_err(|error| error.to_string())?;
    let told: Value = serde_json::from_slice(&body.bytes).map_err(|error| error.to_string())?;
    let socket = told["webSocketDebuggerUrl"]
        .as_str()
        .and_then(|text| Url::parse(text).ok());
    let mut socket = socket.ok_or("it told no webSocketDebuggerUrl")?;
    // It names itself as it sees itself; the way there is the operator's.
    let moved = socket.set_host(url.host_str()).is_ok() && socket.set_port(url.port()).is_ok();
    if moved && socket.scheme() == "ws" {
        Ok(socket.into())
    } else {
        Err("it told an address that is no ws address".to_owned())
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

    #[tokio::test]
    async fn an_address_for_debugging_is_a_socket_or_is_asked_for() {
        assert_eq!(
            socket_of("ws://127.0.0.1:1/x").await.unwrap(),
            "ws://127.0.0.1:1/x"
        );
        for refused in ["wss://example.org/", "ftp://example.org/", "nonsense"] {
            assert!(socket_of(refused).await.is_err(), "{refused}");
        }
    }

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
