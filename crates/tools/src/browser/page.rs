//! One page of a browser, in a browser context of its own: no cookies shared with others, no downloads, no second window.
//!
//! A keeper ([`super::keeper`]) answers for it what it must not wait for.

use super::cdp::{Cdp, CdpFault, Event};
use super::keeper::{Keeper, judge, stop_windows};
use outbound::{Guard, ResolveError};
use reqwest::Url;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// Commands that answer at once.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// An action that leads elsewhere begins to do so within this time.
const LEAVES_WITHIN: Duration = Duration::from_millis(200);
const WIDTH: u32 = 1280;
const HEIGHT: u32 = 800;
/// How the browser tells of a request that our keeper refused, on the way of a redirect for example.
const REFUSED: &str = "net::ERR_ACCESS_DENIED";
/// There is one window: what would open another one opens here.
const ONE_WINDOW: &str = "window.open = function (url) { if (url) { location.href = url; } return null; };";

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("Address not allowed")]
    NotAllowed,
    #[error("Navigation failed: {0}")]
    NotLoaded(String),
    #[error("No element matches {0}")]
    NoElement(String),
    #[error("The script failed: {0}")]
    Script(String),
    #[error("{0}")]
    Other(String),
    /// At the limit of the action.
    #[error("the limit was reached")]
    Slow,
    #[error("the browser ended")]
    Gone,
}

impl From<CdpFault> for Fault {
    fn from(fault: CdpFault) -> Self {
        match fault {
            CdpFault::Refused(said) => Self::Other(said),
            CdpFault::Slow => Self::Slow,
            CdpFault::Gone => Self::Gone,
        }
    }
}

/// Where the page is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub url: String,
    pub title: String,
}

/// An open page; dropped, it is no longer kept, and its context ends with the connection.
#[derive(Debug)]
pub(super) struct Page {
    cdp: Cdp,
    session: String,
    /// Also the id of the main frame.
    target: String,
    guard: Guard,
    _keeper: AbortOnDropHandle<()>,
}

impl Page {
    /// Opens an empty page. `judged`: each of its requests is asked about.
    pub(super) async fn open(cdp: Cdp, guard: Guard, judged: bool) -> Result<Self, Fault> {
        let context = ask(
            &cdp,
            "Target.createBrowserContext",
            json!({"disposeOnDetach": true}),
        )
        .await?;
        let context = text(&context, "browserContextId")?;
        let wanted =
            json!({"url": "about:blank", "browserContextId": context, "width": WIDTH, "height": HEIGHT});
        let target = text(&ask(&cdp, "Target.createTarget", wanted).await?, "targetId")?;
        let attach = json!({"targetId": target, "flatten": true});
        let session = text(&ask(&cdp, "Target.attachToTarget", attach).await?, "sessionId")?;
        let downloads = json!({"behavior": "deny", "browserContextId": context});
        ask(&cdp, "Browser.setDownloadBehavior", downloads).await?;
        let keeper = Keeper {
            cdp: cdp.clone(),
            guard: guard.clone(),
            context,
            target: target.clone(),
            judged,
        };
        let page = Self {
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.keep(cdp.events()?))),
            cdp,
            session,
            target,
            guard,
        };
        page.prepare(judged).await?;
        Ok(page)
    }

    async fn prepare(&self, judged: bool) -> Result<(), Fault> {
        ask(&self.cdp, "Target.setDiscoverTargets", json!({"discover": true})).await?;
        for (method, params) in [
            ("Page.enable", json!({})),
            ("Network.enable", json!({})),
            ("Page.setLifecycleEventsEnabled", json!({"enabled": true})),
            (
                "Page.addScriptToEvaluateOnNewDocument",
                json!({"source": ONE_WINDOW}),
            ),
        ] {
            self.ask(method, params, QUICK).await?;
        }
        if judged {
            judge(&self.cdp, &self.session, "page").await?;
            stop_windows(&self.cdp).await?;
        }
        Ok(())
    }

    pub(super) fn is_gone(&self) -> bool {
        self.cdp.is_gone()
    }

    pub(super) async fn ask(&self, method: &str, params: Value, limit: Duration) -> Result<Value, Fault> {
        Ok(self.cdp.ask(Some(&self.session), method, params, limit).await?)
    }

    /// Leads the page to an address and waits until it is loaded: its status, if it has one.
    pub(super) async fn navigate(&self, url: &Url, until: Instant) -> Result<Option<u64>, Fault> {
        may_open(&self.guard, url).await?;
        let mut events = self.cdp.events()?;
        let answer = self
            .ask("Page.navigate", json!({"url": url.as_str()}), left(until))
            .await?;
        match answer["errorText"].as_str() {
            None | Some("") => {}
            Some(REFUSED) => return Err(Fault::NotAllowed),
            Some(error) => return Err(Fault::NotLoaded(error.to_owned())),
        }
        // None: it only moved within the document.
        match answer["loaderId"].as_str() {
            Some(loader) => self.loaded(&mut events, Some(loader), until).await,
            None => Ok(None),
        }
    }

    /// Waits for the end of loading; a document that is there, with parts of it still on their way, is enough at the limit.
    async fn loaded(
        &self,
        events: &mut Receiver<Arc<Event>>,
        loader: Option<&str>,
        until: Instant,
    ) -> Result<Option<u64>, Fault> {
        let (mut status, mut readable) = (None, false);
        loop {
            let event = match timeout_at(until, events.recv()).await {
                Err(_) if readable => return Ok(status),
                Err(_) => return Err(Fault::Slow),
                Ok(Err(RecvError::Closed)) => return Err(Fault::Gone),
                // What was missed may have been the end: ask.
                Ok(Err(RecvError::Lagged(_))) => {
                    match self.evaluate("document.readyState", left(until)).await? {
                        Value::String(state) if state == "complete" => return Ok(status),
                        _ => continue,
                    }
                }
                Ok(Ok(event)) => event,
            };
            if event.session.as_deref() != Some(&self.session) || event.params["frameId"] != self.target {
                continue;
            }
            if loader.is_some_and(|loader| event.params["loaderId"] != loader) {
                continue;
            }
            match (event.method, event.params["name"].as_str()) {
                ("Network.responseReceived", _) if event.params["type"] == "Document" => {
                    status = event.params["response"]["status"].as_u64();
                }
                ("Page.lifecycleEvent", Some("DOMContentLoaded")) => readable = true,
                ("Page.lifecycleEvent", Some("load")) => return Ok(status),
                _ => {}
            }
        }
    }

    /// After an action: should it lead elsewhere, waits until it is there.
    pub(super) async fn settled(
        &self,
        mut events: Receiver<Arc<Event>>,
        until: Instant,
    ) -> Result<(), Fault> {
        let soon = (Instant::now() + LEAVES_WITHIN).min(until);
        loop {
            match timeout_at(soon, events.recv()).await {
                Err(_) => return Ok(()),
                Ok(Err(RecvError::Closed)) => return Err(Fault::Gone),
                Ok(Ok(event)) if self.leaves(&event) => {
                    return self.loaded(&mut events, None, until).await.map(drop);
                }
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
            }
        }
    }

    fn leaves(&self, event: &Event) -> bool {
        let begins = ["Page.frameRequestedNavigation", "Page.frameStartedNavigating"].contains(&event.method);
        let within = event.params["navigationType"] == "sameDocument";
        begins && !within && event.params["frameId"] == self.target
    }

    pub(super) fn events(&self) -> Result<Receiver<Arc<Event>>, Fault> {
        Ok(self.cdp.events()?)
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(super) async fn evaluate(&self, expression: &str, limit: Duration) -> Result<Value, Fault> {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true,
            "timeout": limit.as_millis() as u64,
        });
        let mut answer = self.ask("Runtime.evaluate", params, limit).await?;
        match answer.get("exceptionDetails") {
            None => Ok(answer["result"]["value"].take()),
            Some(details) => Err(Fault::Script(said(details))),
        }
    }

    /// As the browser itself tells it.
    pub(super) async fn place(&self) -> Result<Place, Fault> {
        let told = ask(
            &self.cdp,
            "Target.getTargetInfo",
            json!({"targetId": self.target}),
        )
        .await?;
        let info = &told["targetInfo"];
        let text = |name: &str| info[name].as_str().unwrap_or_default().to_owned();
        Ok(Place {
            url: text("url"),
            title: text("title"),
        })
    }

    /// Where an action led to must be allowed as well; if not, the page is left.
    pub(super) async fn place_allowed(&self) -> Result<Place, Fault> {
        let place = self.place().await?;
        let judged = match Url::parse(&place.url) {
            Ok(url) if is_inner(&url) => Ok(()),
            Ok(url) => self.guard.check(&url).map_err(|_| Fault::NotAllowed),
            Err(_) => Ok(()),
        };
        if judged.is_err() {
            self.leave().await?;
        }
        judged.map(|()| place)
    }

    /// Back to an empty page.
    pub(super) async fn leave(&self) -> Result<(), Fault> {
        self.ask("Page.navigate", json!({"url": "about:blank"}), QUICK)
            .await
            .map(drop)
    }
}

/// What a script threw, in one line.
fn said(details: &Value) -> String {
    let thrown = details["exception"]["description"]
        .as_str()
        .or_else(|| details["exception"]["value"].as_str())
        .or_else(|| details["text"].as_str());
    let line = thrown.and_then(|text| text.lines().next()).unwrap_or("unknown");
    line.chars().take(500).collect()
}

/// Addresses that lead to no network: an empty page, an error page of the browser's own.
pub(super) fn is_inner(url: &Url) -> bool {
    matches!(url.scheme(), "about" | "data" | "blob" | "chrome-error")
}

/// A name that is not found is left to the browser, which says so in its own words.
pub(super) async fn may_open(guard: &Guard, url: &Url) -> Result<(), Fault> {
    guard.check(url).map_err(|_| Fault::NotAllowed)?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(Fault::NotAllowed);
    };
    match guard.addresses(host, port).await {
        Err(ResolveError::Refused(_)) => Err(Fault::NotAllowed),
        Ok(_) | Err(ResolveError::Lookup(_)) => Ok(()),
    }
}

pub(super) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

async fn ask(cdp: &Cdp, method: &str, params: Value) -> Result<Value, CdpFault> {
    cdp.ask(None, method, params, QUICK).await
}

fn text(answer: &Value, name: &str) -> Result<String, Fault> {
    let found = answer[name].as_str().map(str::to_owned);
    found.ok_or_else(|| Fault::Other(format!("the browser told no {name}")))
}
