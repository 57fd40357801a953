//! Answers for a page what it must not wait for: dialogs, windows it opens, and, where no proxy of ours stands between the browser
//! and the network, whether each of its requests may go out.

use super::cdp::{Cdp, CdpFault, Event};
use super::page::{QUICK, is_inner, may_open};
use outbound::Guard;
use reqwest::Url;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Takes away what reaches a network without a request that could be judged, and what works on unseen by this session.
const ONE_WAY: &str = "for (const way of ['WebSocket', 'WebSocketStream', 'WebTransport', 'RTCPeerConnection', \
    'webkitRTCPeerConnection', 'SharedWorker']) delete globalThis[way]; \
    if (globalThis.Navigator) delete Navigator.prototype.serviceWorker;";

/// From now on each request of a session, and of those it makes, waits to be judged. `kind` is the browser's word for what the
/// session belongs to, which has not begun yet or is empty. A worker's requests are told in the session of its page.
pub(super) async fn judge(cdp: &Cdp, session: &str, kind: &str) -> Result<(), CdpFault> {
    if kind == "worker" {
        let script = json!({"expression": ONE_WAY});
        cdp.ask(Some(session), "Runtime.evaluate", script, QUICK).await?;
    } else {
        let all = json!({"patterns": [{"urlPattern": "*"}]});
        cdp.ask(Some(session), "Fetch.enable", all, QUICK).await?;
        cdp.ask(Some(session), "Page.enable", json!({}), QUICK).await?;
        let no = json!({"isAllowed": false});
        cdp.ask(Some(session), "Page.setPrerenderingAllowed", no, QUICK)
            .await?;
        let script = json!({"source": ONE_WAY, "runImmediately": true});
        cdp.ask(
            Some(session),
            "Page.addScriptToEvaluateOnNewDocument",
            script,
            QUICK,
        )
        .await?;
    }
    let attach = json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true});
    cdp.ask(Some(session), "Target.setAutoAttach", attach, QUICK)
        .await?;
    Ok(())
}

/// From now on new windows stop before their first request. The browser tells those of all contexts: the keeper lets others' go
/// on, and judges and closes ours.
pub(super) async fn stop_windows(cdp: &Cdp) -> Result<(), CdpFault> {
    let pages = json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true,
        "filter": [{"type": "page"}]});
    cdp.ask(None, "Target.setAutoAttach", pages, QUICK)
        .await
        .map(drop)
}

/// Answers for a page what it must not wait for.
pub(super) struct Keeper {
    pub cdp: Cdp,
    pub guard: Guard,
    pub context: String,
    pub target: String,
    pub judged: bool,
}

impl Keeper {
    pub(super) async fn keep(self, mut events: Receiver<Arc<Event>>) {
        let keeper = Arc::new(self);
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            if !keeper.minds(&event) {
                continue;
            }
            let keeper = keeper.clone();
            tokio::spawn(async move {
                if let Err(fault) = keeper.answer(&event).await {
                    tracing::debug!(%fault, method = event.method, "the browser did not take an answer");
                }
            });
        }
    }

    fn minds(&self, event: &Event) -> bool {
        match event.method {
            "Page.javascriptDialogOpening" => true,
            "Fetch.requestPaused" | "Target.attachedToTarget" => self.judged,
            "Target.targetCreated" => event.params["targetInfo"]["openerId"] == self.target,
            _ => false,
        }
    }

    async fn answer(&self, event: &Event) -> Result<(), CdpFault> {
        let session = event.session.as_deref();
        let params = &event.params;
        match event.method {
            "Page.javascriptDialogOpening" => {
                // Leaving is our own wish; nothing else is agreed to.
                let accept = json!({"accept": params["type"] == "beforeunload"});
                self.quick(session, "Page.handleJavaScriptDialog", accept).await
            }
            "Target.targetCreated" => {
                let target = json!({"targetId": params["targetInfo"]["targetId"]});
                self.quick(None, "Target.closeTarget", target).await
            }
            "Target.attachedToTarget" => {
                let Some(child) = params["sessionId"].as_str() else {
                    return Ok(());
                };
                if session.is_none() {
                    return self.window(child, &params["targetInfo"]).await;
                }
                // One that cannot be judged stays where it is: stopped before its first request.
                let kind = params["targetInfo"]["type"].as_str().unwrap_or_default();
                judge(&self.cdp, child, kind).await?;
                self.quick(Some(child), "Runtime.runIfWaitingForDebugger", json!({}))
                    .await
            }
            _ => {
                let id = &params["requestId"];
                let url = Url::parse(params["request"]["url"].as_str().unwrap_or_default());
                let allowed = match url {
                    Ok(url) => is_inner(&url) || may_open(&self.guard, &url).await.is_ok(),
                    Err(_) => false,
                };
                if allowed {
                    self.quick(session, "Fetch.continueRequest", json!({"requestId": id}))
                        .await
                } else {
                    let refused = json!({"requestId": id, "errorReason": "AccessDenied"});
                    self.quick(session, "Fetch.failRequest", refused).await
                }
            }
        }
    }

    /// A window, new or there already, of whomever.
    async fn window(&self, session: &str, info: &Value) -> Result<(), CdpFault> {
        let is_ours = info["browserContextId"] == self.context;
        let is_page = info["targetId"] == self.target;
        if is_ours && !is_page {
            // Only this: other questions are not answered before it may begin.
            let all = json!({"patterns": [{"urlPattern": "*"}]});
            self.quick(Some(session), "Fetch.enable", all).await?;
        }
        if !is_page {
            // Also before it is closed: it may hold up the page that opened it.
            self.quick(Some(session), "Runtime.runIfWaitingForDebugger", json!({}))
                .await?;
        }
        if is_ours && !is_page {
            let target = json!({"targetId": info["targetId"]});
            return self.quick(None, "Target.closeTarget", target).await;
        }
        let session = json!({"sessionId": session});
        self.quick(None, "Target.detachFromTarget", session).await
    }

    async fn quick(&self, session: Option<&str>, method: &str, params: Value) -> Result<(), CdpFault> {
        self.cdp.ask(session, method, params, QUICK).await.map(drop)
    }
}
