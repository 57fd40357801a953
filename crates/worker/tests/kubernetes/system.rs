//! The whole product around a fake cluster: stores, `agent-api`, and workers as processes.

use crate::setup::{Bed, LIMIT};
use reqwest::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::{Postgres, Process, Program, Redis, bin, eventually, free_port, jwt};

const SECRET: &str = "a-secret-of-the-tests-of-jobs";
const USER: &str = "user-1";

pub(crate) struct System {
    pub(crate) bed: Bed,
    _api: Process,
    redis: Redis,
    database_url: String,
    base: String,
    client: Client,
    token: String,
}

impl System {
    pub(crate) async fn start() -> Self {
        let bed = Bed::start().await;
        let redis = Redis::start().await;
        let database_url = Postgres::shared().await.migrated_database().await;
        let port = free_port();
        let api = Program::new(bin("agent-api"))
            .env("DATABASE_URL", &database_url)
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", SECRET)
            .env("API_BIND_ADDR", format!("127.0.0.1:{port}"))
            .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", free_port()))
            .env("LLM_PRIMARY_PROVIDER", "scripted")
            .env("S3_ENDPOINT", bed.s3.endpoint())
            .env("S3_ACCESS_KEY", bed.s3.access_key())
            .env("S3_SECRET_KEY", bed.s3.secret_key())
            .start();
        let system = Self {
            bed,
            _api: api,
            redis,
            database_url,
            base: format!("http://127.0.0.1:{port}"),
            client: Client::builder().no_proxy().build().unwrap(),
            token: jwt(SECRET, USER, Value::Null),
        };
        let url = format!("{}/ready", system.base);
        eventually(LIMIT, || async { system.answers(&url).await }).await;
        system
    }

    async fn answers(&self, url: &str) -> bool {
        let answer = self.client.get(url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// A worker's settings.
    pub(crate) fn program(&self) -> Program {
        Program::new(bin("agent-worker"))
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", self.redis.url())
            .env("LLM_PRIMARY_PROVIDER", "scripted")
            .env("S3_ENDPOINT", self.bed.s3.endpoint())
            .env("S3_ACCESS_KEY", self.bed.s3.access_key())
            .env("S3_SECRET_KEY", self.bed.s3.secret_key())
            .env("S3_REGION", self.bed.s3.region())
            .env("S3_WORKSPACE_BUCKET", self.bed.s3.bucket())
            .env("WORKER_RETRY_BASE_MS", "300")
            .env("TOOL_EXECUTOR", "kubernetes")
            .env("K8S_IN_CLUSTER", "false")
            .env("KUBECONFIG", self.bed.api.kubeconfig().display().to_string())
    }

    /// A worker that is ready.
    pub(crate) async fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let admin = free_port();
        let mut program = self
            .program()
            .env("WORKER_ADMIN_ADDR", format!("127.0.0.1:{admin}"));
        for (name, value) in settings {
            program = program.env(name, *value);
        }
        let worker = program.start();
        let url = format!("http://127.0.0.1:{admin}/readyz");
        eventually(LIMIT, || async { self.answers(&url).await }).await;
        worker
    }

    async fn execute(&self, body: Value) -> Value {
        let request = self.client.post(format!("{}/agent/execute", self.base));
        let answer = request.bearer_auth(&self.token).json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{body} -> {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The id of a new, started run of these shell commands.
    pub(crate) async fn begin(&self, commands: &[&str]) -> String {
        let step = |command: &&str| json!({"type": "tool", "tool_name": "shell", "tool_input": {"command": command}});
        let script: Vec<Value> = commands.iter().map(step).collect();
        let prompt = json!({"script": script}).to_string();
        let made = self.execute(json!({"action": "create", "prompt": prompt})).await;
        let run = made["run_id"].as_str().unwrap().to_owned();
        self.act("start", &run).await;
        run
    }

    pub(crate) async fn act(&self, action: &str, run: &str) -> Value {
        self.execute(json!({"action": action, "run_id": run})).await
    }

    pub(crate) async fn wait_status(&self, run: &str, wanted: &str, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let answer = self.act("status", run).await;
            if answer["status"] == wanted {
                return;
            }
            assert!(
                Instant::now() < until,
                "{run} is {answer}\n{}",
                self.task_log(run).await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn task_log(&self, run: &str) -> String {
        let sql = "SELECT string_agg(seq || ' ' || log_type || ' ' || message, E'\n' ORDER BY seq)
                   FROM agent_task_logs WHERE run_id::text = $1";
        self.text(sql, run).await
    }

    /// The first column of the first row as text, empty when null.
    pub(crate) async fn text(&self, sql: &str, run: &str) -> String {
        let (client, session) = tokio_postgres::connect(&self.database_url, tokio_postgres::NoTls)
            .await
            .unwrap();
        let session = tokio::spawn(session);
        let rows = client
            .query(sql, &[&run])
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        session.await.unwrap().unwrap();
        rows[0].get::<_, Option<String>>(0).unwrap_or_default()
    }
}
