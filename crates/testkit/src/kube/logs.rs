//! Logs of containers: kept by line with the time each came, cut into files as the kubelet rotates them.

use super::faults::Fault;
use super::request::Call;
use super::status::Status;
use super::watch::{Piece, body, tear};
use super::{Cluster, clock, object, verbs::Spot};
use axum::body::{Body, Bytes};
use jiff::Timestamp;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Longest line; the container runtime cuts longer ones.
const LINE: usize = 16 * 1024;
/// Bytes sent at a time.
const BATCH: usize = 64 * 1024;

#[derive(Debug, Clone)]
struct Line {
    time: Timestamp,
    file: u32,
    text: Bytes,
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Log {
    lines: Mutex<Lines>,
    /// Lines there are, and whether the container has ended.
    grown: watch::Sender<(usize, bool)>,
    rotate_at: usize,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<Line>,
    file: u32,
    file_bytes: usize,
}

impl Log {
    pub(super) fn new(rotate_at: usize) -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::default(),
            grown: watch::Sender::new((0, false)),
            rotate_at,
        })
    }

    fn push(&self, text: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.file_bytes >= self.rotate_at {
            lines.file += 1;
            lines.file_bytes = 0;
        }
        lines.file_bytes += text.len() + 40;
        let (time, file) = (clock::now(), lines.file);
        let text = Bytes::copy_from_slice(text);
        lines.all.push(Line { time, file, text });
    }

    fn announce(&self, ended: bool) {
        let count = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all
            .len();
        self.grown.send_replace((count, ended));
    }

    pub(super) fn end(&self) {
        self.announce(true);
    }

    /// Reads a stream of the container to its end.
    pub(super) async fn drain(self: Arc<Self>, mut from: impl tokio::io::AsyncRead + Unpin) {
        use tokio::io::AsyncReadExt;
        let (mut buffer, mut rest) = (vec![0; BATCH], Vec::new());
        loop {
            let read = from.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            rest.extend_from_slice(&buffer[..read]);
            let mut from = 0;
            while let Some(at) = rest[from..].iter().position(|byte| *byte == b'\n') {
                rest[from..from + at]
                    .chunks(LINE)
                    .for_each(|part| self.push(part));
                if at == 0 {
                    self.push(b"");
                }
                from += at + 1;
            }
            rest.drain(..from);
            self.announce(false);
        }
        if !rest.is_empty() {
            self.push(&rest);
            self.announce(false);
        }
    }

    /// Where a reader begins: at the newest file, not before a time.
    fn start(&self, since: Option<Timestamp>, tail: Option<usize>) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = lines.all.partition_point(|line| line.file < lines.file);
        let since = since.map_or(0, |since| lines.all.partition_point(|line| line.time < since));
        let tail = tail.map_or(0, |tail| lines.all.len().saturating_sub(tail));
        newest.max(since).max(tail)
    }

    fn read(&self, from: usize, stamps: bool) -> (usize, Vec<u8>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut bytes, mut next) = (Vec::new(), from);
        for line in lines.all.iter().skip(from) {
            if stamps {
                bytes.extend_from_slice(format!("{} ", line.time).as_bytes());
            }
            bytes.extend_from_slice(&line.text);
            bytes.push(b'\n');
            next += 1;
            if bytes.len() >= BATCH {
                break;
            }
        }
        (next, bytes)
    }
}

/// Starts to send a log.
pub(super) fn start(
    cluster: &Arc<Cluster>,
    call: &Call,
    spot: Spot<'_>,
    faults: Vec<Fault>,
) -> Result<Body, Status> {
    let pod = cluster.read(|state| state.get(spot.kind, spot.namespace, spot.name).cloned());
    let pod = pod.ok_or_else(|| Status::not_found(spot.kind, spot.name))?;
    let container = container(&pod, call.query("container"))?;
    if object::text(&pod, "/spec/nodeName").is_empty() {
        return Err(Status::bad_request(format!(
            "pod {} does not have a host assigned",
            spot.name
        )));
    }
    if faults.contains(&Fault::LogEmpty) {
        return Ok(Body::empty());
    }
    let Some(log) = cluster.log(object::uid(&pod), &container) else {
        let waiting = waiting_reason(&pod, &container);
        let message = format!(
            "container \"{container}\" in pod \"{}\" is waiting to start: {waiting}",
            spot.name
        );
        return Err(Status::bad_request(message));
    };
    let since = since(call)?;
    let reader = Reader {
        at: log.start(since, call.query("tailLines").parse().ok()),
        log,
        follow: call.is_set("follow"),
        stamps: call.is_set("timestamps"),
        left: faults.iter().find_map(|fault| match fault {
            Fault::LogLoseTail(bytes) => Some(*bytes),
            _ => None,
        }),
        cut: faults.iter().find_map(|fault| match fault {
            Fault::LogCut(after) => Some(Instant::now() + *after),
            _ => None,
        }),
    };
    let (out, pieces) = channel(4);
    tokio::spawn(reader.run(out));
    Ok(body(pieces))
}

fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let lists = ["containers", "initContainers"].into_iter();
    let mut names = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let found = names.find(|one| asked.is_empty() || one["name"] == asked);
    found
        .map(|one| object::text(one, "/name").to_owned())
        .ok_or_else(|| {
            let name = object::name(pod);
            Status::bad_request(format!("container {asked} is not valid for pod {name}"))
        })
}

fn waiting_reason(pod: &Value, container: &str) -> String {
    let lists = ["containerStatuses", "initContainerStatuses"].into_iter();
    let mut all = lists.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    let status = all.find(|status| status["name"] == container);
    let reason = status.map(|status| object::text(status, "/state/waiting/reason"));
    reason
        .filter(|reason| !reason.is_empty())
        .unwrap_or("ContainerCreating")
        .to_owned()
}

/// Finer than a second is cut off, as the server does it.
fn since(call: &Call) -> Result<Option<Timestamp>, Status> {
    let text = call.query("sinceTime");
    if !text.is_empty() {
        let time: Timestamp = text
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid sinceTime {text}")))?;
        return Ok(Timestamp::from_second(time.as_second()).ok());
    }
    let seconds: Option<i64> = call.query("sinceSeconds").parse().ok();
    Ok(seconds.map(|seconds| clock::now() - jiff::SignedDuration::from_secs(seconds)))
}

struct Reader {
    log: Arc<Log>,
    at: usize,
    follow: bool,
    stamps: bool,
    left: Option<usize>,
    cut: Option<Instant>,
}

impl Reader {
    async fn run(mut self, out: Sender<Piece>) {
        let mut grown = self.log.grown.subscribe();
        let far = Instant::now() + Duration::from_hours(24);
        loop {
            let (_, ended) = *grown.borrow_and_update();
            let (next, mut bytes) = self.log.read(self.at, self.stamps);
            self.at = next;
            let empty = bytes.is_empty();
            if let Some(left) = &mut self.left {
                bytes.truncate(*left);
                *left -= bytes.len();
            }
            if self.cut.is_some_and(|cut| Instant::now() >= cut) {
                bytes.truncate(bytes.len() / 2);
                return tear(&out, bytes.into()).await;
            }
            if !bytes.is_empty() && out.send(Ok(bytes.into())).await.is_err() {
                return;
            }
            if self.left == Some(0) || (empty && (ended || !self.follow)) {
                return;
            }
            if !empty {
                continue;
            }
            tokio::select! {
                moved = grown.changed() => if moved.is_err() { return },
                () = out.closed() => return,
                () = sleep_until(self.cut.unwrap_or(far)) => {}
            }
        }
    }
}
