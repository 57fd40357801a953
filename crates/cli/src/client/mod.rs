//! The API over HTTP, as its contract describes it.

pub mod follow;
pub mod sse;

use crate::failure::{Code, Failure};
use crate::place::Place;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer that is no stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Where the API listens when nothing else is said (AA-1).
const DEFAULT_API_URL: &str = "http://127.0.0.1:8000";
/// Left as they are in a path of a file.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// Stands for the newest run wherever a run is named.
pub const LAST: &str = "last";

/// A client with one address and one token.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Api {
    pub fn at(place: &Place) -> Result<Self, Failure> {
        Self::new(
            place.get("API_URL").unwrap_or(DEFAULT_API_URL),
            place.get("TOKEN"),
        )
    }

    pub fn new(base: &str, token: Option<&str>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| Failure::new("cannot make an HTTP client").why(&error))?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.map(str::to_owned),
        })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// `POST /agent/execute`; fields whose value is null are as good as absent.
    pub async fn execute(&self, action: &str, mut fields: Value) -> Result<Value, Failure> {
        fields["action"] = json!(action);
        self.post("/agent/execute", &fields).await
    }

    /// `POST /agent/status`; `include` names the lists wanted (`steps`, `messages`, `artifacts`, `logs`).
    pub async fn status(&self, run: &str, include: &[&str]) -> Result<Value, Failure> {
        let mut body = json!({"run_id": run, "artifacts_limit": 1000, "steps_limit": 1000});
        for list in include {
            body[format!("include_{list}")] = json!(true);
        }
        self.post("/agent/status", &body).await
    }

    /// The effect ledger of a run.
    pub async fn effects(&self, run: &str) -> Result<Value, Failure> {
        let request = self.http.get(self.url(&format!("/agent/run/{run}/effects")));
        json_of(self.send(request.timeout(ANSWER_TIMEOUT)).await?).await
    }

    /// Says what became of a tool call.
    pub async fn settle_effect(&self, run: &str, step: &str, told: &Value) -> Result<Value, Failure> {
        self.post(&format!("/agent/run/{run}/effects/{step}"), told).await
    }

    /// What a run may spend and has spent.
    pub async fn budget(&self, run: &str) -> Result<Value, Failure> {
        let request = self.http.get(self.url(&format!("/agent/run/{run}/budget")));
        json_of(self.send(request.timeout(ANSWER_TIMEOUT)).await?).await
    }

    /// Sets caps of a run.
    pub async fn change_budget(&self, run: &str, caps: &Value) -> Result<Value, Failure> {
        self.post(&format!("/agent/run/{run}/budget"), caps).await
    }

    /// What a run asks a person, the open ones or all.
    pub async fn interrupts(&self, run: &str, all: bool) -> Result<Value, Failure> {
        let wanted = if all { "?status=all" } else { "" };
        let request = self
            .http
            .get(self.url(&format!("/agent/run/{run}/interrupts{wanted}")));
        json_of(self.send(request.timeout(ANSWER_TIMEOUT)).await?).await
    }

    /// Decides one of them.
    pub async fn decide(&self, run: &str, interrupt: &str, decision: &Value) -> Result<Value, Failure> {
        self.post(&format!("/agent/run/{run}/interrupts/{interrupt}"), decision)
            .await
    }

    /// Where a file can be fetched without a token: `{"url","expires_at"}`.
    pub async fn file_url(&self, run: &str, path: &str) -> Result<Value, Failure> {
        let path = utf8_percent_encode(path, PATH);
        let url = self.url(&format!("/agent/run/{run}/files/{path}?redirect=false"));
        let request = self.http.get(url).timeout(ANSWER_TIMEOUT);
        json_of(self.send(request).await?).await
    }

    /// What the tools of a run made, newest first; the newest thousand.
    pub async fn artifacts(&self, run: &str) -> Result<Vec<Value>, Failure> {
        let url = self.url(&format!("/agent/run/{run}/artifacts?limit=1000"));
        let mut answer = json_of(self.send(self.http.get(url).timeout(ANSWER_TIMEOUT)).await?).await?;
        match answer["artifacts"].take() {
            Value::Array(artifacts) => Ok(artifacts),
            _ => Err(Failure::new("the API's answer has no artifacts")
                .because("this agentctl and the API may be of different versions")),
        }
    }

    /// Where an artifact can be fetched without a token: `{"url","expires_at"}`.
    pub async fn artifact_url(&self, run: &str, artifact: &str) -> Result<Value, Failure> {
        let url = self.url(&format!("/agent/run/{run}/artifacts/{artifact}?redirect=false"));
        json_of(self.send(self.http.get(url).timeout(ANSWER_TIMEOUT)).await?).await
    }

    /// What an address of the store gives, without the token, which is not the store's business; no more than `limit` bytes.
    pub async fn fetch(&self, url: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let failed = |what: &str| {
            Failure::new(format!("the store's address {what}"))
                .fix("see `agentctl doctor`; S3_PUBLIC_ENDPOINT of the API must name the store as it is seen from here")
        };
        // No word of the address: whoever has it has the file.
        let cut = |error: reqwest::Error| {
            failed("does not answer")
                .because(transport_cause(&error.without_url()))
                .code(Code::Unreachable)
        };
        let mut answer = self.http.get(url).send().await.map_err(cut)?;
        if !answer.status().is_success() {
            return Err(failed(&format!("refuses ({})", answer.status().as_u16())));
        }
        let mut bytes = vec![];
        while let Some(chunk) = answer.chunk().await.map_err(cut)? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(failed("gives more than the artifact has"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// All files of a run as a zip, as it comes.
    pub async fn zip(&self, run: &str) -> Result<Response, Failure> {
        let url = self.url(&format!("/agent/run/{run}/files.zip"));
        self.send(self.http.get(url)).await
    }

    /// One page of `GET /agent/logs`, after a seq.
    pub async fn logs(&self, run: &str, after: i64, limit: u32) -> Result<Value, Failure> {
        let path = format!("/agent/logs?run_id={run}&after={after}&limit={limit}");
        let request = self.http.get(self.url(&path)).timeout(ANSWER_TIMEOUT);
        json_of(self.send(request).await?).await
    }

    /// Opens the default stream strictly after a seq. `None`: the run is finished and nothing follows (AA-44).
    pub async fn stream(&self, run: &str, after: i64) -> Result<Option<Response>, Failure> {
        let mut request = self
            .http
            .get(self.url(&format!("/agent/logs/{run}/stream")))
            .header("Accept", "text/event-stream");
        if after > 0 {
            request = request.header("Last-Event-ID", after.to_string());
        }
        let response = self.send(request).await?;
        Ok((response.status() != StatusCode::NO_CONTENT).then_some(response))
    }

    /// A GET without a token whose answer counts whatever its status: health and readiness.
    pub async fn probe(&self, path: &str) -> Result<(StatusCode, Value), Failure> {
        let request = self.http.get(self.url(path)).timeout(CONNECT_TIMEOUT);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        Ok((status, response.json().await.unwrap_or(Value::Null)))
    }

    /// The run a word stands for: a UUID, or `last`.
    pub async fn resolve(&self, run: &str) -> Result<String, Failure> {
        if run != LAST {
            return uuid::Uuid::parse_str(run).map(|id| id.to_string()).map_err(|_| {
                Failure::new(format!("not a run id: {run}"))
                    .because("a run id is a UUID")
                    .fix("list yours with `agentctl runs`, or say `last` for the newest")
                    .code(Code::Usage)
            });
        }
        let list = self.execute("list", json!({"limit": 1})).await?;
        let newest = &list["runs"][0];
        newest["id"]
            .as_str()
            .or_else(|| newest["run_id"].as_str())
            .map(str::to_owned)
            .ok_or_else(|| {
                Failure::new("there is no run yet").fix("start one with `agentctl run \"PROMPT\"`")
            })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.http.post(self.url(path)).timeout(ANSWER_TIMEOUT).json(body);
        json_of(self.send(request).await?).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::new(format!("the API at {} does not answer", self.base))
            .because(transport_cause(error))
            .fix("start it with `agentctl up`, or see `agentctl doctor`")
            .code(Code::Unreachable)
    }
}

/// The innermost text of a transport error: the address is named by the message already.
fn transport_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut source = std::error::Error::source(error);
    let mut text = None;
    while let Some(inner) = source {
        text = Some(inner.to_string());
        source = inner.source();
    }
    text.unwrap_or_else(|| error.to_string())
}

async fn json_of(response: Response) -> Result<Value, Failure> {
    response
        .json()
        .await
        .map_err(|error| Failure::new("the API's answer is not JSON").why(&error))
}

/// What a problem+json answer means for the caller.
async fn refusal(response: Response) -> Failure {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or(Value::Null);
    let detail = body["detail"].as_str().unwrap_or("no details given");
    let mut failure = Failure::new(format!("{detail} ({})", status.as_u16()));
    if let Some(errors) = body["errors"].as_array() {
        let lines: Vec<String> = errors
            .iter()
            .map(|error| format!("{} {}", error["loc"], error["msg"].as_str().unwrap_or_default()))
            .collect();
        failure = failure.because(lines.join("; "));
    }
    let request_id = body["request_id"].as_str().unwrap_or("unknown");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failure
            .code(Code::Auth)
            .fix("set TOKEN; `agentctl token` makes one for this system"),
        StatusCode::GONE if body["code"] == "artifact_replaced" => failure.fix(
            "list them with `agentctl files RUN artifacts`; the newest of a path is the one that is there",
        ),
        StatusCode::NOT_FOUND if body["code"] == "file_not_found" => {
            failure.fix("list them with `agentctl files RUN`")
        }
        StatusCode::NOT_FOUND => failure.fix("list your runs with `agentctl runs`"),
        status if status.is_server_error() => failure
            .code(if status == StatusCode::SERVICE_UNAVAILABLE {
                Code::Unreachable
            } else {
                Code::Failed
            })
            .fix(format!(
                "see `agentctl doctor`, and the API's log for request {request_id}"
            )),
        _ => failure,
    }
}
