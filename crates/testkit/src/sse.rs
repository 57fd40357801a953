//! A strict reader of server-sent events.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use reqwest::header::{ACCEPT, HeaderMap};
use serde_json::Value;

/// One event as a browser would dispatch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// `None` when there is no `id:` line, or it is no whole number (see `raw`).
    pub id: Option<i64>,
    /// `None` when there is no `event:` line.
    pub event: Option<String>,
    /// The `data:` lines joined with `\n`.
    pub data: String,
    /// All lines of the frame as sent, without the blank line.
    pub raw: String,
}

impl Frame {
    /// `data` as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {:?}", self.raw))
    }

    /// True for the last event of a run, in the default and in the named shape.
    pub fn is_complete(&self) -> bool {
        self.event.as_deref() == Some("complete")
            || (self.event.is_none()
                && serde_json::from_str::<Value>(&self.data).is_ok_and(|data| data["type"] == "complete"))
    }
}

/// An open stream.
pub struct Sse {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    parser: Parser,
    headers: HeaderMap,
    over: bool,
}

impl std::fmt::Debug for Sse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Sse")
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Sse {
    /// Opens a stream.
    ///
    /// # Panics
    /// Unless the answer is 200 with `text/event-stream`.
    pub async fn connect(url: &str, token: Option<&str>, last_event_id: Option<i64>) -> Self {
        match Self::try_connect(url, token, last_event_id).await {
            Ok(stream) => stream,
            Err(answer) => {
                let status = answer.status();
                panic!("{url}: {status} {}", answer.text().await.unwrap_or_default());
            }
        }
    }

    /// Opens a stream, or gives the answer that was not 200.
    ///
    /// # Panics
    /// If nobody answers, or a 200 is not `text/event-stream`.
    pub async fn try_connect(
        url: &str,
        token: Option<&str>,
        last_event_id: Option<i64>,
    ) -> Result<Self, reqwest::Response> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client can be built");
        let mut request = client.get(url).header(ACCEPT, "text/event-stream");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id.to_string());
        }
        let answer = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{url}: {error:?}"));
        if answer.status() != reqwest::StatusCode::OK {
            return Err(answer);
        }
        let headers = answer.headers().clone();
        let kind = headers
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        assert!(
            kind.starts_with("text/event-stream"),
            "{url}: content type {kind:?}"
        );
        let body = answer.bytes_stream().boxed();
        Ok(Self {
            body,
            parser: Parser::default(),
            headers,
            over: false,
        })
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Comment lines so far, without the colon.
    pub fn comments(&self) -> &[String] {
        &self.parser.comments
    }

    /// Values of `retry:` lines so far, in ms.
    pub fn retries(&self) -> &[u64] {
        &self.parser.retries
    }

    /// Waits at most `limit` for the next frame; `None` = the server ended the stream, orderly or not.
    ///
    /// # Panics
    /// If neither comes in time.
    pub async fn next(&mut self, limit: Duration) -> Option<Frame> {
        let next = tokio::time::timeout(limit, self.frame()).await;
        next.unwrap_or_else(|_| panic!("no frame within {limit:?}"))
    }

    /// All frames up to and with `complete`.
    ///
    /// # Panics
    /// If the stream ends before, or `limit` passes, or anything follows `complete`.
    pub async fn collect_until_complete(mut self, limit: Duration) -> Vec<Frame> {
        let deadline = Instant::now() + limit;
        let mut frames: Vec<Frame> = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(next) = tokio::time::timeout(left, self.frame()).await else {
                panic!(
                    "not complete within {limit:?}; {} frames, last {:?}",
                    frames.len(),
                    frames.last()
                );
            };
            let complete = frames.last().is_some_and(Frame::is_complete);
            match next {
                Some(frame) if complete => panic!("a frame after complete: {frame:?}"),
                Some(frame) => frames.push(frame),
                None if complete => return frames,
                None => panic!(
                    "ended before complete; {} frames, last {:?}",
                    frames.len(),
                    frames.last()
                ),
            }
        }
    }

    /// All frames until the server ends the stream, without a deadline.
    pub fn into_frames(self) -> impl Stream<Item = Frame> {
        futures::stream::unfold(self, |mut sse| async move {
            sse.frame().await.map(|frame| (frame, sse))
        })
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.parser.ready.pop_front() {
                return Some(frame);
            }
            if self.over {
                return None;
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.parser.feed(&bytes),
                Some(Err(_)) | None => self.over = true,
            }
        }
    }
}

/// Bytes in any pieces to frames. An unfinished last frame is never dispatched.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    after_return: bool,
    lines: Vec<String>,
    ready: VecDeque<Frame>,
    comments: Vec<String>,
    retries: Vec<u64>,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' if self.after_return => {}
                b'\n' | b'\r' => self.end_line(),
                _ => self.line.push(byte),
            }
            self.after_return = byte == b'\r';
        }
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8(bytes).unwrap_or_else(|error| panic!("a line is not UTF-8: {error}"));
        if line.is_empty() {
            self.dispatch();
        } else if let Some(comment) = line.strip_prefix(':') {
            self.comments.push(comment.trim_start().to_owned());
        } else if let Some(value) = line.strip_prefix("retry:") {
            self.retries.push(
                value
                    .trim()
                    .parse()
                    .unwrap_or_else(|_| panic!("bad line {line:?}")),
            );
        } else {
            self.lines.push(line);
        }
    }

    fn dispatch(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return;
        }
        let mut frame = Frame {
            id: None,
            event: None,
            data: String::new(),
            raw: lines.join("\n"),
        };
        let mut data = Vec::new();
        for line in &lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => frame.id = value.parse().ok(),
                "event" => frame.event = Some(value.to_owned()),
                "data" => data.push(value),
                _ => panic!("unknown field in {line:?}"),
            }
        }
        assert!(!data.is_empty(), "a frame without data: {:?}", frame.raw);
        frame.data = data.join("\n");
        self.ready.push_back(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "retry: 2000\n\n: hi\n\nid: 7\nevent: log\ndata: {\"type\":\"lög\"}\n\ndata: a\r\ndata: b\r\n\r\nid: 9\ndata: {\"type\":\"complete\"}\n\ndata: cut";

    #[test]
    fn any_split_of_the_bytes_gives_the_same_frames() {
        let mut whole = Parser::default();
        whole.feed(TEXT.as_bytes());
        assert_eq!(
            (whole.retries.as_slice(), whole.comments.as_slice()),
            ([2000].as_slice(), ["hi".to_owned()].as_slice())
        );
        let ids: Vec<_> = whole
            .ready
            .iter()
            .map(|frame| (frame.id, frame.data.as_str()))
            .collect();
        assert_eq!(
            ids,
            [
                (Some(7), "{\"type\":\"lög\"}"),
                (None, "a\nb"),
                (Some(9), "{\"type\":\"complete\"}")
            ]
        );
        assert!(whole.ready[2].is_complete() && !whole.ready[0].is_complete());
        for size in 1..20 {
            let mut pieces = Parser::default();
            TEXT.as_bytes().chunks(size).for_each(|piece| pieces.feed(piece));
            assert_eq!(pieces.ready, whole.ready, "pieces of {size}");
        }
    }
}
