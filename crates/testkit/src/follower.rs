//! Follows a run over any number of connections and processes, and checks every step of the way.

use std::time::{Duration, Instant};

use crate::watch::{Watch, frame_id};

const AGAIN: Duration = Duration::from_millis(50);

/// A client that resumes with the last id it has seen. Every event must be the next one.
#[derive(Debug)]
pub struct Follower {
    path: String,
    token: String,
    /// The first one is asked; the next ones follow when it does not answer.
    pub ports: Vec<u16>,
    /// The last id.
    pub seen: i64,
    /// Longest time without an event.
    pub longest_gap: Duration,
    /// When it was told that the process shuts down.
    pub farewell: Option<Instant>,
    /// When it was told that the stream is interrupted.
    pub interrupted: Option<Instant>,
    /// The last `retry:`, in ms.
    pub retry_ms: u64,
    /// `complete` has come.
    pub over: bool,
    last_event: Instant,
}

impl Follower {
    /// Of the stream at `path`, asked of 127.0.0.1 at these ports.
    pub fn new(path: String, token: String, ports: &[u16]) -> Self {
        Self {
            path,
            token,
            ports: ports.to_vec(),
            seen: 0,
            longest_gap: Duration::ZERO,
            farewell: None,
            interrupted: None,
            retry_ms: 0,
            over: false,
            last_event: Instant::now(),
        }
    }

    /// Opens a stream after what has been seen; nothing when there is nobody to answer, or nothing more to come.
    ///
    /// # Panics
    /// If the answer is another than 200, 204 and 503.
    pub async fn open(&mut self) -> Option<Watch> {
        let last = (self.seen > 0).then_some(self.seen);
        match Watch::open(self.ports[0], &self.path, &self.token, last).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(204)) => {
                self.over = true;
                None
            }
            Ok(Err(503)) | Err(_) => None,
            Ok(Err(status)) => panic!("answered with {status}"),
        }
    }

    fn take(&mut self, frame: &str) {
        if let Some(id) = frame_id(frame) {
            assert_eq!(
                id,
                self.seen + 1,
                "neither a gap nor a repetition nor another order"
            );
            assert!(!self.over, "nothing follows complete");
            self.seen = id;
            self.longest_gap = self.longest_gap.max(self.last_event.elapsed());
            self.last_event = Instant::now();
            self.over = frame.contains("{\"type\":\"complete\"");
        } else if let Some(ms) = frame.strip_prefix("retry: ") {
            self.retry_ms = ms.parse().expect("a number");
        } else if frame.contains("\"disconnected\"") {
            self.farewell = Some(Instant::now());
        } else if frame.contains("\"Stream interrupted\"") {
            self.interrupted = Some(Instant::now());
        }
    }

    /// Waits for frames; `false` when the stream is over.
    pub async fn read(&mut self, stream: &mut Watch) -> bool {
        stream.read(|frame| self.take(frame)).await
    }

    /// To the end of the run. A stream that ends is opened again, at the next port when it was told to leave or nobody answers.
    ///
    /// # Panics
    /// If the end has not come within `limit`.
    pub async fn follow(mut self, limit: Duration) -> Self {
        let work = async {
            while !self.over {
                if let Some(mut stream) = self.open().await {
                    while self.read(&mut stream).await {}
                    if self.farewell.take().is_some() {
                        self.ports.rotate_left(1);
                    }
                } else if !self.over {
                    self.ports.rotate_left(1);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        let ended = tokio::time::timeout(limit, work).await;
        assert!(ended.is_ok(), "no end; {} events seen", self.seen);
        self
    }
}
