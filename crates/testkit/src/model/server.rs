//! The HTTP side: routes, checks, streaming, faults.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::answer::{Answer, Fault, Kind};
use super::script::{Recorded, Script, Wire};
use super::{anthropic, openai};
use crate::background;

#[derive(Debug, Default)]
struct Shared {
    script: Mutex<Script>,
    open: AtomicUsize,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("not poisoned")
    }
}

/// Counts a request as open until its answer is sent or its client has gone.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The server. Dropped = closed; panics then, if there are violations nobody has looked at.
#[derive(Debug)]
pub struct ModelServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: AbortHandle,
}

impl ModelServer {
    /// Starts it on a free loopback port, with an empty script.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/messages", post(messages))
            .with_state(Arc::clone(&shared));
        let port = crate::free_port();
        let started = background::handle().spawn(async move {
            let listener = crate::port::listen(port)
                .await
                .expect("the port was free a moment ago");
            let address = listener.local_addr().expect("bound");
            let task = tokio::spawn(async move { axum::serve(listener, router).await });
            (address, task.abort_handle())
        });
        let (address, task) = started.await.expect("the server starts");
        Self {
            shared,
            address,
            task,
        }
    }

    /// `http://127.0.0.1:PORT`, the form of an Anthropic base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://127.0.0.1:PORT/v1`, the form of `OPENAI_BASE_URL`.
    pub fn openai_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Adds an answer at the end of the script.
    pub fn push(&self, answer: Answer) {
        self.shared.script().push(answer);
    }

    /// Adds answers at the end of the script.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        answers.into_iter().for_each(|answer| self.push(answer));
    }

    /// Adds answers for requests whose body contains `text` only (e.g. a run's prompt); such requests
    /// never take from the general script.
    pub fn script_for(&self, text: &str, answers: impl IntoIterator<Item = Answer>) {
        let mut script = self.shared.script();
        answers
            .into_iter()
            .for_each(|answer| script.push_for(text, answer));
    }

    /// What to answer when the script is over, instead of a violation.
    pub fn otherwise(&self, answer: Answer) {
        self.shared.script().set_fallback(answer);
    }

    /// All requests so far, also the refused ones.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.script().requests.clone()
    }

    /// What was wrong with requests so far; a test ends with `assert_eq!(model.violations(), [""; 0])`.
    pub fn violations(&self) -> Vec<String> {
        let mut script = self.shared.script();
        script.violations_read = true;
        script.violations.clone()
    }

    /// Scripted answers nobody has asked for yet.
    pub fn unused(&self) -> usize {
        self.shared.script().left()
    }

    /// Requests whose answer is not over and whose client is still there.
    pub fn open_requests(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
        let Ok(script) = self.shared.script.lock() else {
            return;
        };
        let unread = !script.violations.is_empty() && !script.violations_read;
        let violations = script.violations.join("\n");
        drop(script);
        assert!(
            !unread || std::thread::panicking(),
            "model requests were wrong:\n{violations}"
        );
    }
}

async fn models() -> Response {
    let model =
        |id: &str| json!({"id": id, "object": "model", "created": 1_790_000_000, "owned_by": "testkit"});
    axum::Json(json!({"object": "list", "data": [model("gpt-4o"), model("claude-sonnet-4-20250514")]}))
        .into_response()
}

async fn chat_completions(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let key = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let refused = if key.is_some_and(|key| key.len() > "Bearer ".len() && key.starts_with("Bearer ")) {
        None
    } else {
        Some((401, "You didn't provide an API key."))
    };
    answer(shared, Wire::OpenAi, headers, body, refused).await
}

async fn messages(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let refused = if !headers.contains_key("x-api-key") {
        Some((401, "x-api-key header is required"))
    } else if !headers.contains_key("anthropic-version") {
        Some((400, "anthropic-version: header is required"))
    } else {
        None
    };
    answer(shared, Wire::Anthropic, headers, body, refused).await
}

async fn answer(
    shared: Arc<Shared>,
    wire: Wire,
    headers: HeaderMap,
    body: Bytes,
    refused: Option<(u16, &str)>,
) -> Response {
    let open = Open::new(&shared);
    let text = String::from_utf8_lossy(&body).into_owned();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let request = Recorded {
        wire,
        headers: record(&headers),
        body: body.clone(),
    };
    let (answer, number) = match shared.script().take(request, &text, refused) {
        Ok(answer) => answer,
        Err((status, message)) => return plain(wire, status, &message),
    };
    tokio::time::sleep(answer.delay).await;
    let context = openai::Context {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        include_usage: body["stream_options"]["include_usage"] == true,
        number,
    };
    send(wire, answer, &context, open).await
}

fn record(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

fn plain(wire: Wire, status: u16, message: &str) -> Response {
    let body = match wire {
        Wire::OpenAi => openai::error(status, message),
        Wire::Anthropic => anthropic::error(status, message),
    };
    let status = StatusCode::from_u16(status).expect("a status is 100 to 999");
    (status, axum::Json(body)).into_response()
}

async fn send(wire: Wire, answer: Answer, context: &openai::Context, open: Open) -> Response {
    match answer.kind {
        Kind::Hang => {
            let _open = open;
            std::future::pending().await
        }
        Kind::Silent => streamed(
            Body::from_stream(
                stream::pending::<Result<Bytes, std::io::Error>>().inspect(move |_| {
                    let _ = &open;
                }),
            ),
            wire,
            context,
        ),
        Kind::Status {
            status,
            headers,
            body,
        } => {
            let mut response = plain(wire, status, "as the test asked");
            if let Some(body) = body {
                let status = response.status();
                response = (status, axum::Json(body)).into_response();
            }
            for (name, value) in headers {
                let name: header::HeaderName = name.parse().expect("a header name");
                response
                    .headers_mut()
                    .insert(name, value.parse().expect("a header value"));
            }
            response
        }
        Kind::Reply(reply) => {
            let events = match wire {
                Wire::OpenAi => openai::events(&reply, answer.usage, context),
                Wire::Anthropic => anthropic::events(&reply, answer.usage, context),
            };
            let body = paced(events, answer.pace, reply.fault == Fault::Closed, open);
            streamed(body, wire, context)
        }
    }
}

fn streamed(body: Body, wire: Wire, context: &openai::Context) -> Response {
    let id = match wire {
        Wire::OpenAi => "x-request-id",
        Wire::Anthropic => "request-id",
    };
    let headers = [
        (
            header::CONTENT_TYPE.as_str(),
            "text/event-stream; charset=utf-8".to_owned(),
        ),
        (header::CACHE_CONTROL.as_str(), "no-cache".to_owned()),
        (id, format!("req_{}", context.number)),
    ];
    (headers, body).into_response()
}

/// Sends each event in two pieces cut anywhere, even inside a character, as networks do.
fn paced(events: Vec<String>, pace: Duration, close: bool, open: Open) -> Body {
    let mut pieces: Vec<(bool, Result<Bytes, std::io::Error>)> = Vec::new();
    for (number, event) in events.into_iter().enumerate() {
        let mut rest = Bytes::from(event);
        let first = rest.split_to((number * 5 + 3) % rest.len());
        pieces.push((true, Ok(first)));
        pieces.push((false, Ok(rest)));
    }
    if close {
        pieces.push((true, Err(std::io::Error::other("closed by the test"))));
    }
    let stream = stream::iter(pieces).then(move |(waits, piece)| {
        let _ = &open;
        async move {
            if waits {
                tokio::time::sleep(pace).await;
            }
            piece
        }
    });
    Body::from_stream(stream)
}
