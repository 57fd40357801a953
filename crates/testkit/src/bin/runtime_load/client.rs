//! Requests to `/internal/v1`: signed, with a bearer, or open.

use crate::{Verdict, ensure, setting};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::{Clock as _, SystemClock};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BLOCK: usize = 64;

/// A service to load.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
    secret: Option<String>,
    bearer: Option<String>,
}

impl Client {
    /// The live service: `BASE_URL`, `RUNTIME_SIGNATURE_SECRET`, `BEARER_TOKEN`.
    pub(crate) fn live() -> Result<Self, String> {
        let base = setting("BASE_URL").unwrap_or_else(|| "http://127.0.0.1:4100".to_owned());
        let bearer = setting("BEARER_TOKEN").or_else(|| setting("SMOKE_BEARER_TOKEN"));
        Self::new(&base, setting("RUNTIME_SIGNATURE_SECRET"), bearer)
    }

    /// A service of ours, open on loopback.
    pub(crate) fn open(base: &str) -> Result<Self, String> {
        Self::new(base, None, None)
    }

    fn new(base: &str, secret: Option<String>, bearer: Option<String>) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            http,
            secret,
            bearer,
        })
    }

    /// Status and text of a request below the base; `run` is the run its path names.
    async fn send(
        &self,
        path: &str,
        run: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(u16, String), String> {
        let url = format!("{}{path}", self.base);
        let mut request = match body {
            Some(body) => self.http.post(&url).json(body),
            None => self.http.get(&url),
        };
        if let Some(secret) = &self.secret {
            request = request.header("x-oa-runtime-signature", signature(secret, run));
        } else if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        let answer = request.send().await.map_err(|error| format!("{path}: {error}"))?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|error| format!("{path}: {error}"))?;
        Ok((status, text))
    }

    async fn asked(
        &self,
        path: &str,
        run: Option<&str>,
        body: Option<&Value>,
        expected: u16,
    ) -> Result<Value, String> {
        let (status, text) = self.send(&format!("/internal/v1{path}"), run, body).await?;
        ensure(status == expected, || format!("{path}: {status} {text}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))
    }

    /// The id of a new run.
    pub(crate) async fn create(&self) -> Result<String, String> {
        let body = json!({"metadata": {"source": "load"}});
        let made = self.asked("/runs", None, Some(&body), 201).await?;
        let id = made["run"]["id"].as_str().ok_or("a run without id")?;
        Ok(id.to_owned())
    }

    /// Appends an event; the reply carries the events after `after` only.
    pub(crate) async fn append(&self, run: &str, event: &Value, after: i64) -> Result<Value, String> {
        let path = format!("/runs/{run}/events?events_after={after}&events_limit=1000");
        self.asked(&path, Some(run), Some(event), 200).await
    }

    /// The run with all its events.
    pub(crate) async fn run(&self, run: &str) -> Result<Value, String> {
        let shown = self.asked(&format!("/runs/{run}"), Some(run), None, 200).await?;
        Ok(shown["run"].clone())
    }

    /// `last_seq` of the run's checkpoint.
    pub(crate) async fn checkpoint(&self, run: &str) -> Result<i64, String> {
        let path = format!("/projectors/checkpoints/{run}");
        let shown = self.asked(&path, Some(run), None, 200).await?;
        number(&shown["checkpoint"]["last_seq"])
    }

    /// `event_count` of the run's summary.
    pub(crate) async fn event_count(&self, run: &str) -> Result<i64, String> {
        let path = format!("/projectors/run-summary/{run}");
        let shown = self.asked(&path, Some(run), None, 200).await?;
        number(&shown["summary"]["event_count"])
    }

    /// No drift is recorded for the run.
    pub(crate) async fn no_drift(&self, run: &str) -> Verdict {
        let path = format!("/projectors/drift?topic=run:{run}:events");
        self.asked(&path, None, None, 404).await.map(drop)
    }

    /// The run has no checkpoint.
    pub(crate) async fn no_checkpoint(&self, run: &str) -> Verdict {
        let path = format!("/projectors/checkpoints/{run}");
        self.asked(&path, Some(run), None, 404).await.map(drop)
    }

    /// A request about workers: POST with a body, else GET.
    pub(crate) async fn worker(
        &self,
        path: &str,
        body: Option<&Value>,
        expected: u16,
    ) -> Result<Value, String> {
        self.asked(&format!("/workers{path}"), None, body, expected).await
    }

    /// The sum of a counter's series with these labels.
    pub(crate) async fn counter(&self, series: &str) -> Result<f64, String> {
        let (_, text) = self.send("/metrics", None, None).await?;
        let values = text
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.trim().parse::<f64>().ok());
        Ok(values.sum())
    }

    pub(crate) async fn is_ready(&self) -> bool {
        matches!(self.send("/readyz", None, None).await, Ok((200, _)))
    }
}

pub(crate) fn number(value: &Value) -> Result<i64, String> {
    value.as_i64().ok_or_else(|| format!("{value} is no number"))
}

/// `v1.<claims>.<mac>`, good for a minute and one request.
fn signature(secret: &str, run: Option<&str>) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemClock.now();
    let now = time.as_second();
    let nonce = format!(
        "load-{}-{}",
        time.as_nanosecond(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let mut claims = json!({"iat": now, "exp": now + 60, "nonce": nonce});
    if let Some(run) = run {
        claims["run_id"] = json!(run);
    }
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let mac = URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), claims.as_bytes()));
    format!("v1.{claims}.{mac}")
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > BLOCK {
        Sha256::digest(key).to_vec()
    } else {
        key.to_vec()
    };
    block.resize(BLOCK, 0);
    let padded = |pad: u8| block.iter().map(|byte| byte ^ pad).collect::<Vec<u8>>();
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(text)
        .finalize();
    let outer = Sha256::new().chain_update(padded(0x5c)).chain_update(inner);
    outer.finalize().to_vec()
}
