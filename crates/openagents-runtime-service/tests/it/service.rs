//! A running service, and requests to it.

use domain::{Clock as _, Ids as _, SystemClock, SystemIds};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Postgres, Process, Program, Redis, eventually, free_port};

pub(crate) const SECRET: &str = "secret-of-signed-requests";
pub(crate) const JWT_SECRET: &str = "test-secret-of-sufficient-length";
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The service with a database of its own.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) base: String,
    pub(crate) db_url: String,
    client: Client,
}

/// The program on this port; `settings` are all it is told.
pub(crate) fn program(port: u16, settings: &[(&str, &str)]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_openagents-runtime-service"))
        .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{port}"))
        .env("STARTUP_TIMEOUT_SECONDS", "20")
        .envs(settings.iter().copied())
}

impl Drop for Service {
    /// Whatever a test asked for: the contract has every status that was answered.
    fn drop(&mut self) {
        let log = self.process.stdout();
        let surprise = log
            .lines()
            .find(|line| line.contains("status is not in the contract"));
        assert!(std::thread::panicking() || surprise.is_none(), "{surprise:?}");
    }
}

impl Service {
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let db_url = Postgres::shared().await.migrated_database().await;
        Self::on(&db_url, settings).await
    }

    /// As [`Service::start`], with signed requests.
    pub(crate) async fn signed(redis: &Redis, db_url: &str) -> Self {
        let url = redis.url();
        Self::on(
            db_url,
            &[("RUNTIME_SIGNATURE_SECRET", SECRET), ("REDIS_URL", &url)],
        )
        .await
    }

    pub(crate) async fn on(db_url: &str, settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let all = [settings, &[("DATABASE_URL", db_url)]].concat();
        let service = Self {
            process: program(port, &all).start(),
            base: format!("http://127.0.0.1:{port}"),
            db_url: db_url.to_owned(),
            client: client(),
        };
        service.until_ready().await;
        service
    }

    pub(crate) async fn until_ready(&self) {
        let url = format!("{}/readyz", self.base);
        eventually(SOON, || async {
            let answer = self.client.get(&url).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// A request without authentication; `path` from the root.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, &format!("/internal/v1{path}"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, &format!("/internal/v1{path}"))
            .json(body)
    }

    /// The id of a new run, of a service that asks for no authentication.
    pub(crate) async fn run(&self, body: &Value) -> String {
        let (status, made) = read(self.post("/runs", body)).await;
        assert_eq!(status, 201, "{made}");
        made["run"]["id"].as_str().unwrap().to_owned()
    }

    /// All metric samples: name with labels, value.
    pub(crate) async fn samples(&self) -> Vec<(String, f64)> {
        let answer = self.request(Method::GET, "/metrics").send().await.unwrap();
        samples(&answer.text().await.unwrap())
    }
}

/// The lines of a Prometheus text that are no comments.
pub(crate) fn samples(text: &str) -> Vec<(String, f64)> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

pub(crate) fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// Status and JSON.
pub(crate) async fn read(request: RequestBuilder) -> (u16, Value) {
    json_of(request.send().await.unwrap()).await
}

pub(crate) async fn json_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    (status, body)
}

pub(crate) fn refusal(error: &str, message: &str) -> Value {
    json!({"error": error, "message": message})
}

pub(crate) fn now() -> i64 {
    SystemClock.now().as_second()
}

/// Fresh claims with these besides.
pub(crate) fn claims(more: &Value) -> Value {
    let nonce = SystemIds.uuid().to_string();
    let mut claims = json!({"iat": now(), "exp": now() + 60, "nonce": nonce});
    let own = claims.as_object_mut().unwrap();
    own.extend(more.as_object().unwrap().clone());
    claims
}

/// The request with a header over these claims.
pub(crate) fn signed(request: RequestBuilder, claims: &Value) -> RequestBuilder {
    request.header("X-OA-RUNTIME-SIGNATURE", header(claims, SECRET))
}

pub(crate) fn header(claims: &Value, secret: &str) -> String {
    api::routes::runtime::signature::sign(claims, secret).unwrap()
}
