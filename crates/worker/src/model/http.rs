//! What both vendors' clients share: one connection pool each, the table of answers, the stream reader.
//!
//! Invariants: an error holds the vendor's short message, never a URL, a header or a whole body, and never the
//! key; a reply is whole or an error; a stream silent for [`Endpoint::idle`] is given up.

use super::answers;
use super::sse::{SseEvent, SseParser};
use agent::ports::{CallWatch, FailedCall, ModelError, ModelRequest};
use agent::purse::{request_tokens, tokens};
use domain::{Clock, Usage};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response, Url};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Time to make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// After the model's stop reason the rest of the stream (usage, end mark) is waited for at most this long.
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);
/// A reply may have at most this many bytes on the wire.
const MAX_REPLY_BYTES: usize = 32 * 1024 * 1024;
/// Of an error answer at most this many bytes are read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Where and how to reach a vendor. `Debug` leaves the URLs out: they may hold a password.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) provider: &'static str,
    pub(super) model: String,
    pub(super) client: Client,
    /// With the (sensitive) key.
    pub(super) headers: HeaderMap,
    pub(super) chat_url: Url,
    /// Listing models uses no tokens.
    pub(super) models_url: Url,
    /// Longest silence of a stream.
    pub(super) idle: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("host", &self.host())
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// Whether the stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    End,
}

/// Puts a vendor's stream together.
pub(super) trait Assembler {
    /// Takes one event of the stream.
    fn take(&mut self, event: &SseEvent) -> Result<Flow, ModelError>;
    /// Takes a reply given as one JSON document by a server that does not stream.
    fn take_whole(&mut self, reply: &Value) -> Result<(), ModelError>;
    /// The stop reason is known: what is still to come may be missed.
    fn is_settled(&self) -> bool;
    /// The text that has come since this was asked last.
    fn fresh_text(&mut self) -> Option<&str>;
    /// What the vendor has told of the tokens so far, and the characters that have come; nothing before the first event.
    fn so_far(&self) -> Option<SoFar>;
}

/// What is known of a reply that is not whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SoFar {
    pub(super) usage: Option<Usage>,
    pub(super) chars: usize,
}

impl SoFar {
    /// What a call that ends here has used: the vendor's figures where it gave any, else counted by us.
    fn used(self, request: &ModelRequest) -> Usage {
        let told = self.usage.unwrap_or(Usage {
            input_tokens: request_tokens(request),
            ..Usage::default()
        });
        Usage {
            output_tokens: told.output_tokens.max(tokens(self.chars)),
            is_estimated: true,
            ..told
        }
    }
}

/// A client for one vendor: no redirects (they would carry the key away), no limit on the whole reply.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("agent-worker/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Endpoint {
    /// The host's name, without port and credentials.
    pub(super) fn host(&self) -> &str {
        self.chat_url.host_str().unwrap_or("unknown host")
    }

    /// Sends the request and feeds the answer to `assembler` until its end. A call that fails after the answer began is told
    /// with what it used.
    pub(super) async fn stream(
        &self,
        (request, body): (&ModelRequest, &Value),
        assembler: &mut impl Assembler,
        watch: &dyn CallWatch,
    ) -> Result<(), ModelError> {
        let done = self.send(body, assembler, watch).await;
        if done.is_err()
            && let Some(so_far) = assembler.so_far()
        {
            watch.failed(FailedCall {
                model: self.model.clone(),
                provider: self.provider.to_owned(),
                usage: so_far.used(request),
            });
        }
        done
    }

    async fn send(
        &self,
        body: &Value,
        assembler: &mut impl Assembler,
        watch: &dyn CallWatch,
    ) -> Result<(), ModelError> {
        let request = self
            .client
            .post(self.chat_url.clone())
            .headers(self.headers.clone());
        let sent = tokio::time::timeout(self.idle, request.json(body).send()).await;
        let response = sent
            .map_err(|_| self.silent())?
            .map_err(|error| self.broken(error))?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if is_json {
            return self.read_whole(response, assembler).await;
        }
        self.read_events(response, assembler, watch).await
    }

    async fn read_events(
        &self,
        mut response: Response,
        assembler: &mut impl Assembler,
        watch: &dyn CallWatch,
    ) -> Result<(), ModelError> {
        let mut parser = SseParser::default();
        let mut received = 0;
        loop {
            let chunk = match self.next_chunk(&mut response, assembler.is_settled()).await {
                Err(_) if assembler.is_settled() => return Ok(()),
                chunk => chunk?,
            };
            let events = match &chunk {
                Some(bytes) => {
                    received += bytes.len();
                    parser
                        .push(bytes)
                        .map_err(|fault| self.transient(&fault.to_string()))?
                }
                None => parser.finish().into_iter().collect(),
            };
            for event in &events {
                let flow = assembler.take(event)?;
                if let Some(text) = assembler.fresh_text() {
                    watch.text(text);
                }
                if flow == Flow::End {
                    return Ok(());
                }
            }
            if chunk.is_none() {
                return if assembler.is_settled() {
                    Ok(())
                } else {
                    Err(self.transient("the stream was cut before its end"))
                };
            }
            if received > MAX_REPLY_BYTES {
                return Err(self.transient("the reply is too large"));
            }
        }
    }

    async fn next_chunk(
        &self,
        response: &mut Response,
        settled: bool,
    ) -> Result<Option<bytes::Bytes>, ModelError> {
        let limit = if settled {
            self.idle.min(TAIL_TIMEOUT)
        } else {
            self.idle
        };
        tokio::time::timeout(limit, response.chunk())
            .await
            .map_err(|_| self.silent())?
            .map_err(|error| self.broken(error))
    }

    async fn read_whole(
        &self,
        mut response: Response,
        assembler: &mut impl Assembler,
    ) -> Result<(), ModelError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk(&mut response, false).await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_REPLY_BYTES {
                return Err(self.transient("the reply is too large"));
            }
        }
        let reply: Value =
            serde_json::from_slice(&body).map_err(|_| self.transient("the reply is no valid JSON"))?;
        assembler.take_whole(&reply)
    }

    /// The decision on an answer that is no success.
    async fn refusal(&self, mut response: Response) -> ModelError {
        let status = response.status().as_u16();
        let retry_after = answers::retry_after(response.headers(), self.clock.now());
        let mut body = Vec::new();
        // A body that cannot be read only costs the vendor's words; the status decides.
        while let Ok(Some(chunk)) = self.next_chunk(&mut response, true).await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR_BYTES {
                break;
            }
        }
        let fault = answers::VendorFault::from_body(&body);
        answers::decide_status(self.provider, status, retry_after, &fault)
    }

    fn silent(&self) -> ModelError {
        self.transient(&format!("no answer for {} s", self.idle.as_secs()))
    }

    /// Connection trouble; faults in our own request are permanent.
    fn broken(&self, error: reqwest::Error) -> ModelError {
        let permanent = error.is_builder();
        let what = if error.is_connect() {
            "connection failed"
        } else if error.is_timeout() {
            "timed out"
        } else if permanent {
            "the request cannot be made"
        } else {
            "connection broke"
        };
        let text = format!("{what}: {}", root_cause(&error.without_url()));
        if permanent {
            return answers::permanent(self.provider, &text, None);
        }
        self.transient(&text)
    }

    pub(super) fn transient(&self, text: &str) -> ModelError {
        answers::transient(self.provider, text)
    }

    /// Asks for the list of models: reachable and the key is taken. A vendor without such a list passes.
    pub(super) async fn check(&self) -> Result<(), String> {
        let asked = self
            .client
            .get(self.models_url.clone())
            .headers(self.headers.clone())
            .timeout(CHECK_TIMEOUT)
            .send()
            .await;
        let status = match asked {
            Ok(response) => response.status().as_u16(),
            Err(error) => {
                let cause = root_cause(&error.without_url());
                return Err(format!("{} cannot be reached: {cause}", self.provider));
            }
        };
        match status {
            401 | 403 => Err(format!("{} refuses the key ({status})", self.provider)),
            500.. => Err(format!("{} answered {status}", self.provider)),
            _ => Ok(()),
        }
    }
}

/// The innermost error's text: the outer ones repeat what we say ourselves.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    answers::short(&cause.to_string())
}
