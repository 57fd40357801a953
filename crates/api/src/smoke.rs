//! `agent-api smoke`: one run from outside, as a caller inside the platform makes it.
//!
//! Invariant: a run that was made is ended, also when a step in between fails; so a smoke test leaves no open run behind.

use crate::routes::runtime::access::SIGNATURE;
use crate::routes::runtime::signature::sign;
use bootstrap::Redacted;
use bootstrap::settings::exit;
use domain::{Clock as _, Ids as _, SystemClock, SystemIds};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::time::Duration;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a signature is good, in seconds.
const SIGNATURE_LIFE: i64 = 60;
/// Exit code of a failed step.
const FAILED: u8 = 1;

/// How the requests authenticate.
#[derive(Debug)]
pub enum Credentials {
    Signature(Redacted<String>),
    Bearer(Redacted<String>),
    Nothing,
}

impl Credentials {
    /// The signature comes first.
    pub fn new(secret: Option<Redacted<String>>, bearer: Option<Redacted<String>>) -> Self {
        match (secret, bearer) {
            (Some(secret), _) => Self::Signature(secret),
            (None, Some(bearer)) => Self::Bearer(bearer),
            (None, None) => Self::Nothing,
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("no answer: {0}")]
    NoAnswer(String),
    #[error("status {status}, expected {expected}: {body}")]
    Status {
        status: u16,
        expected: u16,
        body: String,
    },
    #[error("answer without {0}")]
    Incomplete(&'static str),
    #[error("request could not be signed")]
    Unsigned,
}

/// One request and the status it must have.
struct Step<'a> {
    name: &'static str,
    method: Method,
    path: String,
    /// Part of the claims where the request is about a run.
    run_id: Option<&'a str>,
    body: Option<Value>,
    expected: u16,
}

struct Smoke {
    client: Client,
    base: String,
    credentials: Credentials,
    failed: bool,
}

/// Runs the steps; the exit code.
pub async fn run(base_url: &str, credentials: Credentials) -> io::Result<u8> {
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build();
    let mut smoke = Smoke {
        client: client.unwrap_or_default(),
        base: base_url.trim_end_matches('/').to_owned(),
        credentials,
        failed: false,
    };
    smoke.all().await?;
    Ok(if smoke.failed { FAILED } else { exit::OK })
}

impl Smoke {
    /// Nothing is made at a service that is not ready; what is made is finished.
    async fn all(&mut self) -> io::Result<()> {
        for (name, path) in [("healthz", "/healthz"), ("readyz", "/readyz")] {
            if self.step(get(name, path, None)).await?.is_none() {
                return Ok(());
            }
        }
        let metadata = json!({"metadata": {"source": "smoke"}});
        let create = post("create", "/internal/v1/runs", None, metadata, 201);
        let Some(made) = self.step(create).await? else {
            return Ok(());
        };
        let Some(run_id) = made.pointer("/run/id").and_then(Value::as_str) else {
            return self
                .report("create", Err(StepError::Incomplete("run.id")))
                .map(drop);
        };
        self.drive(run_id).await?;
        let path = format!("/internal/v1/runs/{run_id}/events");
        let finish = json!({"event_type": "run.finished", "payload": {"status": "succeeded"},
            "idempotency_key": "smoke:finish"});
        let finish = post("finish", &path, Some(run_id), finish, 200);
        self.step(finish).await.map(drop)
    }

    /// The steps between making a run and ending it.
    async fn drive(&mut self, run_id: &str) -> io::Result<()> {
        let path = format!("/internal/v1/runs/{run_id}");
        let started = json!({"event_type": "run.started", "payload": {"source": "smoke"},
            "idempotency_key": "smoke:start"});
        let append = post("append", &format!("{path}/events"), Some(run_id), started, 200);
        if self.step(append).await?.is_some() {
            self.step(get("get", &path, Some(run_id))).await?;
        }
        Ok(())
    }

    /// Sends one request and prints its line; the answer when it was the expected one.
    async fn step(&mut self, step: Step<'_>) -> io::Result<Option<Value>> {
        let name = step.name;
        let answer = self.answer(step).await;
        self.report(name, answer)
    }

    fn report(&mut self, name: &str, answer: Result<Value, StepError>) -> io::Result<Option<Value>> {
        let mut out = io::stdout().lock();
        match answer {
            Ok(body) => writeln!(out, "ok   {name}").map(|()| Some(body)),
            Err(error) => {
                self.failed = true;
                writeln!(out, "FAIL {name}: {error}").map(|()| None)
            }
        }
    }

    async fn answer(&self, step: Step<'_>) -> Result<Value, StepError> {
        let no_answer =
            |error: reqwest::Error| StepError::NoAnswer(crate::error::chain(&error.without_url()));
        let mut request = self
            .client
            .request(step.method, format!("{}{}", self.base, step.path));
        match &self.credentials {
            Credentials::Signature(secret) => {
                let signature = sign(&claims(step.run_id), secret.expose()).ok_or(StepError::Unsigned)?;
                request = request.header(SIGNATURE, signature);
            }
            Credentials::Bearer(token) => request = request.bearer_auth(token.expose()),
            Credentials::Nothing => {}
        }
        if let Some(body) = step.body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(no_answer)?;
        let (status, expected) = (answer.status().as_u16(), step.expected);
        let body = answer.text().await.map_err(no_answer)?;
        if status != expected {
            return Err(StepError::Status {
                status,
                expected,
                body,
            });
        }
        serde_json::from_str(&body).map_err(|_| StepError::Incomplete("JSON"))
    }
}

fn get<'a>(name: &'static str, path: &str, run_id: Option<&'a str>) -> Step<'a> {
    Step {
        name,
        method: Method::GET,
        path: path.to_owned(),
        run_id,
        body: None,
        expected: 200,
    }
}

fn post<'a>(name: &'static str, path: &str, run_id: Option<&'a str>, body: Value, expected: u16) -> Step<'a> {
    Step {
        name,
        method: Method::POST,
        path: path.to_owned(),
        run_id,
        body: Some(body),
        expected,
    }
}

fn claims(run_id: Option<&str>) -> Value {
    let now = SystemClock.now().as_second();
    let mut claims = json!({"iat": now, "exp": now + SIGNATURE_LIFE, "nonce": SystemIds.uuid().to_string()});
    if let Some(run_id) = run_id {
        claims["run_id"] = json!(run_id);
    }
    claims
}
