//! The debugging protocol of Chromium, as far as it is needed: commands with ids, events by session.
//!
//! What comes from the browser is hostile: an answer nobody waits for is dropped, events are kept up to a number, and no command
//! is waited for without a limit.

use super::wire::Wire;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};

/// Events kept for a slow listener; older ones are lost to it.
const EVENTS: usize = 1024;
/// The events somebody waits for; a page can make the browser tell much more, and more at length.
const WANTED: [&str; 8] = [
    "Page.lifecycleEvent",
    "Page.frameRequestedNavigation",
    "Page.frameStartedNavigating",
    "Page.javascriptDialogOpening",
    "Network.responseReceived",
    "Target.targetCreated",
    "Target.attachedToTarget",
    "Fetch.requestPaused",
];

/// How a command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CdpFault {
    /// The browser's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the browser gave no answer in time")]
    Slow,
    #[error("the browser is gone")]
    Gone,
}

/// Something the browser told unasked.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub session: Option<String>,
    pub method: &'static str,
    pub params: Value,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, CdpFault>>>>>;

/// A connection to a browser. Cheap to clone; the connection ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Cdp {
    out: futures::channel::mpsc::Sender<String>,
    waiting: Waiting,
    events: broadcast::WeakSender<Arc<Event>>,
    next: Arc<AtomicU64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cdp {
    pub(super) fn over(wire: Wire) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let waiting = Waiting::default();
        let cdp = Self {
            out: wire.out,
            waiting: waiting.clone(),
            events: events.downgrade(),
            next: Arc::new(AtomicU64::new(1)),
        };
        let mut incoming = wire.incoming;
        tokio::spawn(async move {
            while let Some(Ok(text)) = incoming.next().await {
                if let Ok(message) = serde_json::from_str(&text) {
                    sort_out(&waiting, &events, message);
                }
            }
            // Listeners and those who wait learn of the end, each by a closed channel.
            drop(events);
            locked(&waiting).clear();
        });
        cdp
    }

    /// Events from now on; none when the browser is gone.
    pub(super) fn events(&self) -> Result<broadcast::Receiver<Arc<Event>>, CdpFault> {
        let events = self.events.upgrade().ok_or(CdpFault::Gone)?;
        Ok(events.subscribe())
    }

    pub(super) fn is_gone(&self) -> bool {
        self.events.upgrade().is_none()
    }

    /// Asks and waits for the answer, no longer than `limit`.
    pub(super) async fn ask(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<Value, CdpFault> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        locked(&self.waiting).insert(id, answer);
        let _forget = Forget(&self.waiting, id);
        if self.is_gone() {
            return Err(CdpFault::Gone);
        }
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let asked = async {
            let mut out = self.out.clone();
            out.send(message.to_string()).await.map_err(|_| CdpFault::Gone)?;
            answered.await.map_err(|_| CdpFault::Gone)?
        };
        tokio::time::timeout(limit, asked)
            .await
            .map_err(|_| CdpFault::Slow)?
    }
}

/// A command that is given up leaves nothing behind.
struct Forget<'a>(&'a Waiting, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        locked(self.0).remove(&self.1);
    }
}

fn sort_out(waiting: &Waiting, events: &broadcast::Sender<Arc<Event>>, mut message: Value) {
    let session = message["sessionId"].as_str().map(str::to_owned);
    if let Some(id) = message["id"].as_u64() {
        let Some(answer) = locked(waiting).remove(&id) else {
            return;
        };
        let result = match message.get("error") {
            Some(error) => Err(CdpFault::Refused(
                error["message"]
                    .as_str()
                    .unwrap_or("refused")
                    .chars()
                    .take(300)
                    .collect(),
            )),
            None => Ok(message["result"].take()),
        };
        // Whoever asked may have given up this moment.
        if answer.send(result).is_err() {
            tracing::trace!("an answer of the browser came too late");
        }
        return;
    }
    let Some(method) = WANTED.iter().find(|wanted| message["method"] == **wanted) else {
        return;
    };
    let event = Event {
        session,
        method,
        params: message["params"].take(),
    };
    // Nobody has to listen.
    if events.send(Arc::new(event)).is_err() {
        tracing::trace!("an event of the browser that nobody waits for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc;

    fn wired() -> (Cdp, mpsc::Receiver<String>, mpsc::Sender<std::io::Result<String>>) {
        let (out, sent) = mpsc::channel(8);
        let (said, incoming) = mpsc::channel(8);
        (Cdp::over(Wire { out, incoming }), sent, said)
    }

    #[tokio::test]
    async fn answers_find_their_commands_and_foreign_ones_are_dropped() {
        let (cdp, mut sent, mut said) = wired();
        let mut events = cdp.events().unwrap();
        let browser = async {
            let asked: Value = serde_json::from_str(&sent.next().await.unwrap()).unwrap();
            assert_eq!(asked["sessionId"], "s");
            for text in [
                "no json".to_owned(),
                json!({"id": 99, "result": {}}).to_string(),
                json!({"method": "Page.lifecycleEvent", "params": {"a": 1}, "sessionId": "s"}).to_string(),
                json!({"id": asked["id"], "error": {"message": "no such thing"}}).to_string(),
            ] {
                said.send(Ok(text)).await.unwrap();
            }
        };
        let asked = cdp.ask(Some("s"), "Page.enable", json!({}), Duration::from_secs(5));
        let (answer, ()) = tokio::join!(asked, browser);
        assert_eq!(answer, Err(CdpFault::Refused("no such thing".to_owned())));
        assert_eq!(events.recv().await.unwrap().method, "Page.lifecycleEvent");
    }

    #[tokio::test]
    async fn the_end_of_the_browser_ends_what_waits() {
        let (cdp, sent, said) = wired();
        let ask = cdp.ask(None, "Browser.getVersion", json!({}), Duration::from_secs(5));
        let gone = async {
            drop((sent, said));
        };
        let (answer, ()) = tokio::join!(ask, gone);
        assert_eq!(answer, Err(CdpFault::Gone));
        let gone = || async { cdp.is_gone().then_some(()) };
        testkit::eventually_some(Duration::from_secs(5), gone)
            .await
            .unwrap();
        assert!(locked(&cdp.waiting).is_empty());
    }
}
