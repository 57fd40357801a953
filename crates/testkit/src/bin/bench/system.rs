//! The programs under measurement and their stores.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Postgres, Process, Program, Redis, S3, bin, free_port, jwt};

const SECRET: &str = "a-secret-of-the-measurements";
const READY_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(1);

/// Stores shared by all measurements; each system has its own database.
pub(crate) struct Stores {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    pub(crate) s3: S3,
}

impl Stores {
    pub(crate) async fn start() -> Self {
        Self {
            postgres: Postgres::start().await,
            redis: Redis::start().await,
            s3: S3::start().await,
        }
    }
}

/// One API and its workers.
pub(crate) struct System {
    pub(crate) api: Process,
    pub(crate) workers: Vec<Process>,
    /// From exec to the first 200 of `/ready`.
    pub(crate) api_ready: Duration,
    pub(crate) worker_ready: Vec<Duration>,
    pub(crate) base: String,
    pub(crate) token: String,
    database: String,
}

impl System {
    pub(crate) async fn start(stores: &Stores, workers: usize) -> Self {
        Self::start_with(stores, workers, &[]).await
    }

    /// With more settings for the workers.
    pub(crate) async fn start_with(stores: &Stores, workers: usize, settings: &[(&str, &str)]) -> Self {
        stores.redis.cli(&["FLUSHALL"]);
        let database = stores.postgres.migrated_database().await;
        let shared = [
            ("DATABASE_URL", database.clone()),
            ("REDIS_URL", stores.redis.url()),
            ("JWT_SECRET", SECRET.to_owned()),
            ("LLM_PRIMARY_PROVIDER", "scripted".to_owned()),
            ("S3_ENDPOINT", stores.s3.endpoint()),
            ("S3_ACCESS_KEY", stores.s3.access_key().to_owned()),
            ("S3_SECRET_KEY", stores.s3.secret_key().to_owned()),
            ("S3_REGION", stores.s3.region().to_owned()),
            ("S3_WORKSPACE_BUCKET", stores.s3.bucket().to_owned()),
        ];
        let port = free_port();
        let base = format!("http://127.0.0.1:{port}");
        let api = Program::new(bin("agent-api"))
            .envs(shared.clone())
            .env("API_BIND_ADDR", format!("127.0.0.1:{port}"))
            .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", free_port()));
        let (api, api_ready) = started(api, &format!("{base}/ready")).await;
        let mut system = Self {
            api,
            workers: Vec::new(),
            api_ready,
            worker_ready: Vec::new(),
            base,
            token: jwt(SECRET, "bench", Value::Null),
            database,
        };
        for _ in 0..workers {
            let admin = format!("127.0.0.1:{}", free_port());
            let worker = Program::new(bin("agent-worker"))
                .envs(shared.clone())
                .env("WORKER_ADMIN_ADDR", &admin)
                .envs(settings.iter().copied());
            let (worker, ready) = started(worker, &format!("http://{admin}/readyz")).await;
            system.workers.push(worker);
            system.worker_ready.push(ready);
        }
        system
    }

    /// Orderly, so that the next system meets no leftovers.
    pub(crate) async fn stop(mut self) {
        for process in self.workers.iter_mut().chain([&mut self.api]) {
            process.term();
        }
        for process in self.workers.iter_mut().chain([&mut self.api]) {
            process.wait(READY_LIMIT).await;
        }
    }

    /// At once: its runs need no orderly end.
    pub(crate) fn kill(mut self) {
        for process in self.workers.iter_mut().chain([&mut self.api]) {
            process.kill();
        }
    }

    /// Transactions of the server that have written something. By their numbers: the counters of its statistics come late.
    pub(crate) async fn commits(&self) -> f64 {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        self.number(sql).await as f64
    }

    /// Runs in work.
    pub(crate) async fn executing(&self) -> usize {
        let sql = "SELECT count(*) FROM agent_runs WHERE status = 'executing'";
        self.number(sql).await as usize
    }

    async fn number(&self, sql: &str) -> i64 {
        let connected = tokio_postgres::connect(&self.database, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("Postgres answers");
        let connection = tokio::spawn(connection);
        let row = client.query_one(sql, &[]).await.expect("one row");
        drop(client);
        connection.await.expect("no panic").expect("an orderly end");
        row.get(0)
    }

    /// `/agent/execute`, which must succeed.
    pub(crate) async fn execute(&self, client: &reqwest::Client, body: &Value) -> Value {
        let request = client.post(format!("{}/agent/execute", self.base));
        let answer = request.bearer_auth(&self.token).json(body).send().await;
        let answer = answer.expect("the API answers");
        assert_eq!(answer.status(), 200, "{body}");
        answer.json().await.expect("the API answers JSON")
    }

    /// The id of a new run.
    pub(crate) async fn create(&self, client: &reqwest::Client, prompt: &str) -> String {
        let answer = self
            .execute(client, &json!({"action": "create", "prompt": prompt}))
            .await;
        answer["run_id"].as_str().expect("a run id").to_owned()
    }

    /// A new run that is started by the same request.
    pub(crate) async fn create_started(&self, client: &reqwest::Client, prompt: &str) {
        let body = json!({"action": "create", "prompt": prompt, "auto_start": true});
        self.execute(client, &body).await;
    }

    pub(crate) async fn begin(&self, client: &reqwest::Client, run_id: &str) {
        self.execute(client, &json!({"action": "start", "run_id": run_id}))
            .await;
    }
}

async fn started(program: Program, url: &str) -> (Process, Duration) {
    let client = client();
    let begun = Instant::now();
    let process = program.start();
    loop {
        if let Ok(answer) = client.get(url).send().await
            && answer.status() == 200
        {
            return (process, begun.elapsed());
        }
        assert!(
            begun.elapsed() < READY_LIMIT,
            "{url} is not ready: {}",
            process.stdout()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// A client with one connection of its own.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .build()
        .expect("a client can be built")
}

/// Resident memory of a process.
pub(crate) fn rss_mib(pid: u32) -> f64 {
    let output = Command::new("ps")
        .args(["-o", "rss=", "-p", &pid.to_string()])
        .output()
        .expect("ps starts");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let kib: f64 = text.parse().unwrap_or_else(|_| panic!("ps: {text:?}"));
    kib / 1024.0
}
