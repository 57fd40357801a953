//! Following a run's log: every seq once and in order, over any number of cut connections.
//!
//! Invariants: an event is given out only when its seq is above the last one given; a reconnect names that seq in
//! `Last-Event-ID`; the end is the `complete` event, or the server's word that nothing follows.

use crate::client::Api;
use crate::client::sse::{Frame, Parser};
use crate::console::Console;
use crate::failure::{Code, Failure};
use reqwest::Response;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Longest silence of a stream; the server writes at least a comment every 15 s (AA-41).
const MAX_SILENCE: Duration = Duration::from_secs(45);
/// First and longest wait before a reconnect.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// After this long without a connection the command gives up.
const GIVE_UP_AFTER: Duration = Duration::from_mins(3);

/// A cursor over a run's log.
#[derive(Debug)]
pub struct Follower<'a> {
    api: &'a Api,
    console: Console,
    run: String,
    last_seq: i64,
    stream: Option<(Response, Parser)>,
    frames: VecDeque<Frame>,
    lost_at: Option<Instant>,
    wait: Duration,
    /// The loss was told.
    told: bool,
    ended: bool,
}

impl<'a> Follower<'a> {
    /// Starts strictly after `after`; 0 is the beginning.
    pub fn new(api: &'a Api, console: Console, run: &str, after: i64) -> Self {
        Self {
            api,
            console,
            run: run.to_owned(),
            last_seq: after,
            stream: None,
            frames: VecDeque::new(),
            lost_at: None,
            wait: FIRST_WAIT,
            told: false,
            ended: false,
        }
    }

    /// The seq of the last event given out.
    pub const fn last_seq(&self) -> i64 {
        self.last_seq
    }

    /// The next event in its default form, or `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Value>, Failure> {
        while !self.ended {
            if let Some(event) = self.take_frame() {
                return Ok(Some(event));
            }
            match self.stream.take() {
                None => self.connect().await?,
                Some((mut response, mut parser)) => {
                    match tokio::time::timeout(MAX_SILENCE, response.chunk()).await {
                        Ok(Ok(Some(bytes))) => {
                            self.frames.extend(parser.push(&bytes));
                            self.stream = Some((response, parser));
                        }
                        Ok(Ok(None) | Err(_)) | Err(_) => self.pause().await?,
                    }
                }
            }
        }
        Ok(None)
    }

    fn take_frame(&mut self) -> Option<Value> {
        while let Some(frame) = self.frames.pop_front() {
            // Frames without an id are of this connection only: connected, disconnected, error, hand-made ones.
            let seq = frame.id.as_deref().and_then(|id| id.parse::<i64>().ok());
            let Some(seq) = seq.filter(|seq| *seq > self.last_seq) else {
                continue;
            };
            let Ok(event) = serde_json::from_str::<Value>(&frame.data) else {
                continue;
            };
            self.last_seq = seq;
            self.ended = event["type"] == "complete";
            return Some(event);
        }
        None
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        match self.api.stream(&self.run, self.last_seq).await {
            Ok(Some(response)) => {
                self.lost_at = None;
                if std::mem::take(&mut self.told) {
                    self.console.note("connected again");
                }
                self.wait = FIRST_WAIT;
                self.stream = Some((response, Parser::default()));
                Ok(())
            }
            Ok(None) => {
                self.ended = true;
                Ok(())
            }
            // The first try tells at once; later ones keep trying, for the server may be restarting.
            Err(failure) if failure.code == Code::Unreachable && self.lost_at.is_some() => self.pause().await,
            Err(failure) => Err(failure),
        }
    }

    /// Waits before the next try, longer each time.
    async fn pause(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let lost_at = *self.lost_at.get_or_insert(now);
        if now.duration_since(lost_at) > GIVE_UP_AFTER {
            return Err(Failure::new("the connection is lost and does not come back")
                .fix(format!("agentctl logs {} -f --after {}", self.run, self.last_seq))
                .code(Code::Unreachable));
        }
        if self.wait > FIRST_WAIT && !self.told {
            self.told = true;
            self.console.note(&format!(
                "connection lost after seq {}; trying again",
                self.last_seq
            ));
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}
