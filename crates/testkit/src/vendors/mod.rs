//! Stand-ins for the search vendors and the connectors' vendors, on loopback, each below a path of its own.
//!
//! They are strict: a request that the vendor's published description does not allow (path, method, header, member, type)
//! is answered as the vendor would and kept as a complaint, so that a test of ours fails by what the vendor would refuse.
//! The sources are named where the shapes are written down.

mod github;
mod graphql;
mod linear;
mod search;
mod slack;

use crate::background;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::task::AbortHandle;

/// The keys that the stand-ins know.
pub const TAVILY_KEY: &str = "tvly-testkit";
pub const SERPER_KEY: &str = "serper-testkit";
pub const BRAVE_KEY: &str = "brave-testkit";
pub const GITHUB_KEY: &str = "ghp_testkit";
pub const LINEAR_KEY: &str = "lin_api_testkit";
pub const SLACK_KEY: &str = "xoxb-testkit";

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Below the vendor's base, decoded by nobody.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    /// Null when there was none.
    pub body: Value,
}

/// What happens to a request instead of its proper answer.
#[derive(Debug, Clone)]
pub enum Instead {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Nothing comes.
    Silence,
    /// The answer breaks off in its body.
    Broken,
    /// The request is carried out, and its answer never comes.
    DoneInSilence,
    /// A body without end.
    Endless,
}

/// What a vendor answers to a request in order; the complaint says what is wrong with one that is not.
type Judged = Result<(u16, Value), (u16, Value, String)>;

#[derive(Debug, Default)]
struct Inner {
    requests: Vec<Request>,
    complaints: Vec<String>,
    instead: VecDeque<Instead>,
    /// Ids of ours that Linear and Slack have seen, and what was made with them.
    made: Vec<(String, Value)>,
}

/// The server. Dropped = closed.
#[derive(Debug)]
pub struct Vendors {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Vendors {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Vendors {
    /// Starts it on a free loopback port.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let inner = Arc::<Mutex<Inner>>::default();
        let router = Router::new().fallback(take).with_state(inner.clone());
        let started = background::handle().spawn(async move {
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .expect("a port is free");
            let address = listener.local_addr().expect("a bound port");
            let task = tokio::spawn(async move { axum::serve(listener, router).await });
            (address, task.abort_handle())
        });
        let (address, task) = started.await.expect("the server starts");
        Self { inner, address, task }
    }

    /// The base address of `tavily`, `serper`, `brave`, `searxng`, `github`, `linear` or `slack`.
    pub fn url(&self, vendor: &str) -> String {
        format!("http://{}/{vendor}", self.address)
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// What the vendors would have refused.
    pub fn complaints(&self) -> Vec<String> {
        self.lock().complaints.clone()
    }

    /// What was really made: issues, comments, messages.
    pub fn made(&self) -> Vec<Value> {
        self.lock().made.iter().map(|(_, made)| made.clone()).collect()
    }

    /// Lets something else happen to the next request; several stand in line.
    pub fn instead(&self, next: Instead) {
        self.lock().instead.push_back(next);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no request panicked")
    }
}

async fn take(State(inner): State<Arc<Mutex<Inner>>>, request: HttpRequest) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 4 << 20).await.expect("a body of some MiB");
    let path = head.uri.path().trim_start_matches('/').to_owned();
    let (vendor, rest) = path.split_once('/').unwrap_or((&path, ""));
    let query = reqwest::Url::parse(&format!("http://x/?{}", head.uri.query().unwrap_or_default()))
        .expect("a query that came parses");
    let request = Request {
        method: head.method.to_string(),
        path: rest.to_owned(),
        query: query.query_pairs().into_owned().collect(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let instead = {
        let mut inner = inner.lock().expect("no request panicked");
        inner.requests.push(request.clone());
        inner.instead.pop_front()
    };
    let proper = || {
        let mut inner = inner.lock().expect("no request panicked");
        judge(vendor, &request, &mut inner)
    };
    match instead {
        None => proper(),
        Some(Instead::Answer {
            status,
            headers,
            body,
        }) => plain(status, headers, body),
        Some(Instead::Silence) => std::future::pending().await,
        Some(Instead::DoneInSilence) => {
            drop(proper());
            std::future::pending().await
        }
        Some(Instead::Broken) => {
            let pieces = [Ok("{\"begun\":"), Err(std::io::Error::other("cut"))];
            Response::new(Body::from_stream(futures::stream::iter(pieces)))
        }
        Some(Instead::Endless) => {
            let piece = || Ok::<_, std::io::Error>(vec![b'x'; 65_536]);
            Response::new(Body::from_stream(futures::stream::repeat_with(piece).boxed()))
        }
    }
}

fn judge(vendor: &str, request: &Request, inner: &mut Inner) -> Response<Body> {
    let judged = match vendor {
        "tavily" => search::tavily(request),
        "serper" => search::serper(request),
        "brave" => search::brave(request),
        "searxng" => search::searxng(request),
        "github" => github::answer(request, &mut inner.made),
        "linear" => linear::answer(request, &mut inner.made),
        "slack" => slack::answer(request, &mut inner.made),
        _ => wrong(404, json!({}), "no such vendor"),
    };
    let (status, body) = judged.unwrap_or_else(|(status, body, complaint)| {
        let (method, path) = (&request.method, &request.path);
        inner
            .complaints
            .push(format!("{vendor}: {method} {path}: {complaint}"));
        (status, body)
    });
    plain(status, vec![], body.to_string())
}

fn plain(status: u16, headers: Vec<(&'static str, String)>, body: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).expect("a header's value");
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
    answer
}

fn wrong(status: u16, body: Value, complaint: impl Into<String>) -> Judged {
    Err((status, body, complaint.into()))
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    fn has_query(&self, name: &str) -> Option<&str> {
        let (_, value) = self.query.iter().find(|(other, _)| other == name)?;
        Some(value)
    }

    /// Parameters that the vendor does not have.
    fn unknown_query(&self, known: &[&str]) -> Option<String> {
        let unknown = self
            .query
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()));
        unknown.map(|(name, _)| format!("unknown parameter {name}"))
    }
}

/// The form of a member: its name, the type, and whether it must be there.
struct Member(&'static str, Type, bool);

#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Bool,
    /// A whole number between these.
    Number(i64, i64),
    OneOf(&'static [&'static str]),
    Texts,
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Bool => value.is_boolean(),
            Self::Number(least, most) => value
                .as_i64()
                .is_some_and(|number| (least..=most).contains(&number)),
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Texts => value
                .as_array()
                .is_some_and(|all| all.iter().all(Value::is_string)),
        }
    }
}

/// What is wrong with a body, if anything.
fn fault_of(body: &Value, members: &[Member]) -> Option<String> {
    let Some(object) = body.as_object() else {
        return Some("the body is no object".to_owned());
    };
    for Member(name, kind, required) in members {
        match object.get(*name) {
            None if *required => return Some(format!("{name} is missing")),
            Some(value) if !kind.fits(value) => return Some(format!("{name} is not {kind:?}")),
            _ => {}
        }
    }
    let known = |name: &str| members.iter().any(|Member(other, ..)| *other == name);
    let unknown = object.keys().find(|name| !known(name));
    unknown.map(|name| format!("unknown member {name}"))
}

#[cfg(test)]
mod tests;
