//! What the model server is told to answer, free of any provider's wire form.

use std::time::Duration;

use serde_json::{Value, json};

/// One scripted answer to one model call.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) kind: Kind,
    pub(super) delay: Duration,
    pub(super) pace: Duration,
    pub(super) usage: Usage,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) input: u64,
    pub(super) output: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Reply(Reply),
    Status {
        status: u16,
        headers: Vec<(String, String)>,
        body: Option<Value>,
    },
    Silent,
    Hang,
}

/// A 200 stream, whole or broken.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) text: Option<String>,
    pub(super) calls: Vec<(String, Value)>,
    pub(super) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// The token limit is reached in the middle of the last content; an orderly end says so.
    Length,
    /// The connection is closed in the middle of the last content.
    Closed,
    /// An error event comes instead of the rest.
    Error,
}

impl Answer {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            delay: Duration::ZERO,
            pace: Duration::ZERO,
            usage: Usage {
                input: 120,
                output: 30,
            },
        }
    }

    fn reply(text: Option<String>, calls: Vec<(String, Value)>, fault: Fault) -> Self {
        Self::of(Kind::Reply(Reply { text, calls, fault }))
    }

    /// A text and an orderly end.
    pub fn text(text: impl Into<String>) -> Self {
        Self::reply(Some(text.into()), Vec::new(), Fault::None)
    }

    /// Native tool calls: name and arguments (an object).
    pub fn tool_calls<N: Into<String>>(calls: Vec<(N, Value)>) -> Self {
        Self::reply(None, own(calls), Fault::None)
    }

    /// A text, then tool calls, as models do when they explain themselves.
    pub fn text_and_calls<N: Into<String>>(text: impl Into<String>, calls: Vec<(N, Value)>) -> Self {
        Self::reply(Some(text.into()), own(calls), Fault::None)
    }

    /// An HTTP error. `body` null = the provider's usual error body for this status.
    pub fn status(status: u16, headers: &[(&str, &str)], body: Value) -> Self {
        let headers = headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self::of(Kind::Status {
            status,
            headers,
            body: (!body.is_null()).then_some(body),
        })
    }

    /// 529, as Anthropic answers when it is overloaded.
    pub fn overloaded() -> Self {
        Self::status(529, &[], Value::Null)
    }

    /// OpenAI's 429 that no retry can heal: the account has no money left.
    pub fn insufficient_quota() -> Self {
        let error = json!({"message": "You exceeded your current quota, please check your plan and billing details.",
            "type": "insufficient_quota", "param": null, "code": "insufficient_quota"});
        Self::status(429, &[], json!({"error": error}))
    }

    /// 200, some content, then an error event in the provider's form, then the end.
    pub fn error_mid_stream() -> Self {
        Self::reply(Some("Let me think about".to_owned()), Vec::new(), Fault::Error)
    }

    /// The token limit is reached in the middle of the arguments (`length` / `max_tokens`).
    pub fn cut_tool_call(name: impl Into<String>, arguments: Value) -> Self {
        Self::reply(None, vec![(name.into(), arguments)], Fault::Length)
    }

    /// The connection is closed in the middle of the arguments.
    pub fn cut_connection(name: impl Into<String>, arguments: Value) -> Self {
        Self::reply(None, vec![(name.into(), arguments)], Fault::Closed)
    }

    /// The token limit is reached in the middle of a text.
    pub fn cut_text(text: impl Into<String>) -> Self {
        Self::reply(Some(text.into()), Vec::new(), Fault::Length)
    }

    /// 200 and the headers, then nothing, for ever.
    pub fn silent() -> Self {
        Self::of(Kind::Silent)
    }

    /// The request is read, then nothing, for ever; not even a status.
    pub fn hang() -> Self {
        Self::of(Kind::Hang)
    }

    /// Waits before the status is sent.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Waits between the events of the stream.
    #[must_use]
    pub fn paced(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// Tokens to report (120 in, 30 out unless told).
    #[must_use]
    pub fn usage(mut self, input: u64, output: u64) -> Self {
        self.usage = Usage { input, output };
        self
    }
}

fn own<N: Into<String>>(calls: Vec<(N, Value)>) -> Vec<(String, Value)> {
    let calls: Vec<_> = calls
        .into_iter()
        .map(|(name, arguments)| (name.into(), arguments))
        .collect();
    assert!(!calls.is_empty(), "an answer with tool calls needs one");
    calls
}

/// Cuts a text into pieces of about `size` bytes on character boundaries; an empty text has none.
pub(super) fn pieces(text: &str, size: usize) -> Vec<&str> {
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let end = (size..=rest.len())
            .find(|&at| rest.is_char_boundary(at))
            .unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// The first half of the pieces, at least one: what arrives before a cut.
pub(super) fn half<'t>(pieces: &[&'t str]) -> Vec<&'t str> {
    pieces[..pieces
        .len()
        .div_ceil(2)
        .min(pieces.len().saturating_sub(1))
        .max(1)
        .min(pieces.len())]
        .to_vec()
}
