//! Watches: one line of JSON per change, with bookmarks, time limits and streaming lists.

use super::faults::Fault;
use super::kind::Kind;
use super::object::{Selector, text};
use super::request::Call;
use super::status::Status;
use super::store::Change;
use super::{Cluster, verbs::Spot};
use axum::body::{Body, Bytes};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until};

/// What a stream sends: bytes, or an end in the middle of everything.
pub(super) type Piece = Result<Bytes, std::io::Error>;

/// A body out of a channel.
pub(super) fn body(pieces: Receiver<Piece>) -> Body {
    Body::from_stream(futures::stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    }))
}

/// What is on the wire before a connection is cut.
const FLUSH: Duration = Duration::from_millis(10);

/// Sends the last bytes, then closes the connection; whether anybody still reads does not matter.
pub(super) async fn tear(out: &Sender<Piece>, last: Bytes) {
    if out.send(Ok(last)).await.is_ok() {
        tokio::time::sleep(FLUSH).await;
        drop(out.send(Err(std::io::Error::other("cut on demand"))).await);
    }
}

struct Watch {
    cluster: Arc<Cluster>,
    kind: Kind,
    namespace: String,
    selector: Selector,
    bookmarks: bool,
    faults: Vec<Fault>,
    cursor: u64,
    ends: Instant,
    out: Sender<Piece>,
}

/// Why a watch stopped.
struct Ended;

/// Starts a watch.
pub(super) fn start(
    cluster: &Arc<Cluster>,
    call: &Call,
    spot: Spot<'_>,
    faults: Vec<Fault>,
) -> Result<Body, Status> {
    let streaming = call.is_set("sendInitialEvents");
    if streaming && call.query("resourceVersionMatch") != "NotOlderThan" {
        let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires \
                       setting resourceVersionMatch to NotOlderThan";
        return Err(Status::new(422, "Invalid", message));
    }
    let version = call.query("resourceVersion");
    let known: u64 = match version {
        "" => 0,
        text => text.parse().map_err(|_| {
            let message = format!("resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax");
            Status::new(400, "BadRequest", message)
        })?,
    };
    let (out, pieces) = channel(64);
    let seconds = call.query("timeoutSeconds").parse().unwrap_or(1_800);
    let watch = Watch {
        cluster: Arc::clone(cluster),
        kind: spot.kind,
        namespace: spot.namespace.to_owned(),
        selector: Selector::parse(call.query("labelSelector"), call.query("fieldSelector")),
        bookmarks: call.is_set("allowWatchBookmarks"),
        faults,
        cursor: known,
        ends: Instant::now() + Duration::from_secs(seconds),
        out,
    };
    tokio::spawn(watch.run(streaming, known == 0));
    Ok(body(pieces))
}

impl Watch {
    async fn run(mut self, streaming: bool, from_now: bool) {
        let Ended = match self.begin(streaming, from_now).await {
            Ok(()) => self.follow().await,
            Err(ended) => ended,
        };
    }

    async fn begin(&mut self, streaming: bool, from_now: bool) -> Result<(), Ended> {
        if !streaming && !from_now {
            return Ok(());
        }
        let (version, objects) = self.cluster.read(|state| {
            let all = state.list(self.kind, &self.namespace);
            let objects: Vec<Value> = all
                .filter(|object| self.selector.matches(object))
                .cloned()
                .collect();
            (state.version, objects)
        });
        self.cursor = version;
        for object in objects {
            self.send("ADDED", &object).await?;
        }
        if streaming && self.bookmarks {
            self.bookmark(true).await?;
        }
        Ok(())
    }

    async fn follow(&mut self) -> Ended {
        let mut moved = self.cluster.changes();
        let (mut trouble_at, trouble) = self.trouble();
        let mut bookmark_at = Instant::now() + self.cluster.options.bookmarks;
        loop {
            moved.mark_unchanged();
            let Some(changes) = self
                .cluster
                .read(|state| state.changes_after(self.cursor, self.kind))
            else {
                let oldest = self.cluster.read(|state| state.oldest);
                let status = Status::expired(self.cursor, oldest);
                let _closed = self.send("ERROR", &status.body()).await;
                return Ended;
            };
            if self.deliver(changes).await.is_err() {
                return Ended;
            }
            tokio::select! {
                told = moved.changed() => if told.is_err() { return Ended },
                () = self.out.closed() => return Ended,
                () = sleep_until(bookmark_at), if self.bookmarks => {
                    if self.bookmark(false).await.is_err() { return Ended }
                    bookmark_at = Instant::now() + self.cluster.options.bookmarks;
                }
                () = sleep_until(trouble_at) => {
                    match trouble {
                        Some(Fault::WatchGone(_)) => { let _closed = self.send("ERROR", &Status::gone().body()).await; }
                        Some(_) => self.tear().await,
                        None => {}
                    }
                    if trouble.is_some() { return Ended }
                    trouble_at = self.ends;
                }
                () = sleep_until(self.ends) => return Ended,
            }
        }
    }

    fn trouble(&self) -> (Instant, Option<Fault>) {
        let found = self.faults.iter().find_map(|fault| match fault {
            Fault::WatchCut(after) | Fault::WatchGone(after) => {
                Some((Instant::now() + *after, Some(fault.clone())))
            }
            _ => None,
        });
        found.unwrap_or((self.ends, None))
    }

    async fn deliver(&mut self, mut changes: Vec<Change>) -> Result<(), Ended> {
        if let Some(last) = changes.last() {
            self.cursor = last.version;
        }
        if self.faults.contains(&Fault::WatchReorder) {
            changes.reverse();
        }
        let times = if self.faults.contains(&Fault::WatchDouble) {
            2
        } else {
            1
        };
        for change in changes {
            let inside =
                self.namespace.is_empty() || text(&change.object, "/metadata/namespace") == self.namespace;
            if !inside || !self.selector.matches(&change.object) || self.faults.contains(&Fault::WatchSilent)
            {
                continue;
            }
            for _ in 0..times {
                self.send(change.what, &change.object).await?;
            }
        }
        Ok(())
    }

    async fn bookmark(&mut self, of_list: bool) -> Result<(), Ended> {
        let mut object = json!({
            "kind": self.kind.name(), "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": self.cursor.to_string(), "creationTimestamp": null},
        });
        if self.kind == Kind::Job {
            object["spec"] =
                json!({"template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": null}}});
            object["status"] = json!({});
        }
        if self.kind == Kind::Pod {
            object["spec"] = json!({"containers": null});
            object["status"] = json!({});
        }
        if of_list {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.send("BOOKMARK", &object).await
    }

    /// Half a line, then the end of the connection.
    async fn tear(&mut self) {
        let half = Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"ki");
        tear(&self.out, half).await;
    }

    async fn send(&mut self, what: &str, object: &Value) -> Result<(), Ended> {
        let line = format!("{}\n", json!({"type": what, "object": object}));
        self.out.send(Ok(line.into())).await.map_err(|_| Ended)
    }
}

/// An answer that is whole at once.
pub(super) fn whole(text: String) -> Body {
    let once = futures::stream::once(async move { Ok::<_, Infallible>(Bytes::from(text)) });
    Body::from_stream(once)
}
