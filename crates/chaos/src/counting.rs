//! The world outside, as the three counting tools reach it: a server that counts effects and writes every call down.
//!
//! | tool | counts |
//! | --- | --- |
//! | `count_pure` | nothing |
//! | `count_idempotent` | each idempotency key once |
//! | `count_at_most_once` | every call it accepts: repeating one is what must never happen |
//!
//! `tool_input`: `ms` = how long the call takes, `late` = the effect comes at the end of that time instead of its beginning.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::history::{Call, Entry, History, Verdict};

/// In the refusal of a stale call; a step whose stored result holds it was written by a worker that had lost its run.
pub const STALE_TEXT: &str = "stale fencing token";

/// How often the server misbehaves on purpose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temper {
    /// Share of calls that get 500 and do not count.
    pub fails: f64,
    /// Share of accepted calls whose connection is cut after they counted.
    pub cuts: f64,
}

impl Temper {
    pub const CALM: Self = Self {
        fails: 0.0,
        cuts: 0.0,
    };
}

#[derive(Debug)]
struct Books {
    /// Highest fencing token seen, by run.
    highest: HashMap<String, i64>,
    /// What the operator has set, by run.
    floors: HashMap<String, i64>,
    /// Effects, by step: a step has one idempotency key, also when it is run again.
    effects: HashMap<String, u64>,
    rng: StdRng,
}

#[derive(Debug)]
struct Inner {
    history: Arc<History>,
    temper: Temper,
    books: Mutex<Books>,
}

/// The running server. Dropped = stopped.
#[derive(Debug)]
pub struct Counting {
    inner: Arc<Inner>,
    port: u16,
    server: JoinHandle<()>,
}

impl Counting {
    /// On a port of its own; writes to `history`.
    pub async fn start(history: Arc<History>, temper: Temper, seed: u64) -> Self {
        let inner = Arc::new(Inner {
            history,
            temper,
            books: Mutex::new(Books {
                highest: HashMap::new(),
                floors: HashMap::new(),
                effects: HashMap::new(),
                rng: StdRng::seed_from_u64(seed),
            }),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let app = Router::new()
            .route("/{tool}", post(call))
            .with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            axum::serve(listener, app)
                .await
                .expect("the counting server serves");
        });
        Self { inner, port, server }
    }

    /// For `AGENT_COUNTING_TOOLS_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on only calls of `run_id` with this token or a higher one count. Gives how often the step has counted.
    pub fn raise_floor(&self, run_id: &str, token: i64, step_id: &str) -> u64 {
        let mut books = self.inner.books();
        self.inner.history.add(Entry::Floor {
            run_id: run_id.to_owned(),
            token,
        });
        let floor = books.floors.entry(run_id.to_owned()).or_default();
        *floor = token.max(*floor);
        books.effects.get(step_id).copied().unwrap_or_default()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Inner {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges the call, writes it down, then counts it: all under one lock, so that the order of the history is the
    /// order of the effects. Gives the count, and whether the connection is to be cut.
    fn take(&self, mut call: Call) -> (Verdict, u64, bool) {
        let mut books = self.books();
        let least = [&books.highest, &books.floors]
            .into_iter()
            .filter_map(|tokens| tokens.get(&call.run_id).copied())
            .max();
        call.verdict = if least.is_some_and(|least| call.token < least) {
            Verdict::Stale
        } else if books.rng.random_bool(self.temper.fails) {
            Verdict::Failed
        } else {
            Verdict::Accepted
        };
        if call.verdict != Verdict::Stale {
            books.highest.insert(call.run_id.clone(), call.token);
        }
        self.history.add(Entry::Call(call.clone()));
        if call.verdict != Verdict::Accepted {
            return (call.verdict, 0, false);
        }
        let effects = books.effects.entry(call.step_id).or_default();
        match call.tool.as_str() {
            "count_at_most_once" => *effects += 1,
            "count_idempotent" => *effects = 1,
            _ => {}
        }
        let count = *effects;
        let cut = books.rng.random_bool(self.temper.cuts);
        (Verdict::Accepted, count, cut)
    }
}

async fn call(
    State(inner): State<Arc<Inner>>,
    Path(tool): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let Some(call) = read(tool, &headers, &body) else {
        inner.history.note(format!("malformed call: {headers:?} {body}"));
        return (StatusCode::BAD_REQUEST, "malformed call").into_response();
    };
    let input = &body["tool_input"];
    let pause = Duration::from_millis(input["ms"].as_u64().unwrap_or_default());
    let late = input["late"].as_bool().unwrap_or_default();
    if late {
        tokio::time::sleep(pause).await;
    }
    let (verdict, count, cut) = inner.take(call.clone());
    if !late && verdict == Verdict::Accepted {
        tokio::time::sleep(pause).await;
    }
    inner.history.add(Entry::Answered {
        run_id: call.run_id,
        key: call.key,
        token: call.token,
        cut,
    });
    if cut {
        // Ends the connection's task without an answer and without a word.
        std::panic::resume_unwind(Box::new("cut on purpose"));
    }
    match verdict {
        Verdict::Accepted => Json(json!({"count": count})).into_response(),
        Verdict::Stale => (StatusCode::CONFLICT, STALE_TEXT).into_response(),
        Verdict::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "planned failure").into_response(),
    }
}

fn read(tool: String, headers: &HeaderMap, body: &Value) -> Option<Call> {
    let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let text = |name: &str| Some(body[name].as_str()?.to_owned());
    Some(Call {
        run_id: text("run_id")?,
        step_id: text("step_id")?,
        tool,
        key: header("idempotency-key")?,
        token: header("fencing-token")?.parse().ok()?,
        verdict: Verdict::Failed,
    })
}
