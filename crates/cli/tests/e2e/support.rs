//! A private system: stores, `agent-api`, workers, a user, and eyes on all of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use testkit::{
    FaultProxy, Frame, Postgres, Process, Program, Redis, S3, Sse, bin, eventually, eventually_some,
    free_port, jwt,
};

pub(crate) use crate::wire::{
    assert_tools_are_paired, ids, message, processes_with, script, shell, sleep_ms, write,
};

pub(crate) const SECRET: &str = "a-secret-of-the-end-to-end-tests";
pub(crate) const USER: &str = "user-1";
/// For what needs milliseconds when the machine is idle.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// For whole runs on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);
pub(crate) const LISTS: [&str; 5] = ["high_priority", "pending", "processing", "retry", "failed"];

/// Dropped = all processes gone.
pub(crate) struct System {
    pub(crate) api: Process,
    pub(crate) workers: Vec<Process>,
    pub(crate) admin: Vec<u16>,
    pub(crate) redis: Redis,
    /// Between the programs and Redis, when asked for.
    pub(crate) proxy: Option<FaultProxy>,
    pub(crate) s3: S3,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) database_url: String,
    pub(crate) base: String,
    pub(crate) port: u16,
    pub(crate) client: Client,
    pub(crate) token: String,
    pub(crate) worker_env: Vec<(&'static str, String)>,
}

/// What differs between tests.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) own_postgres: bool,
    pub(crate) proxied: bool,
    pub(crate) worker_env: Vec<(&'static str, String)>,
    pub(crate) api_env: Vec<(&'static str, String)>,
}

impl Setup {
    pub(crate) fn workers(workers: usize) -> Self {
        Self {
            workers,
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn worker_env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.worker_env.push((name, value.into()));
        self
    }

    /// For both programs.
    #[must_use]
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        self.api_env.push((name, value.clone()));
        self.worker_env.push((name, value));
        self
    }

    #[must_use]
    pub(crate) fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// The programs reach Redis through [`System::proxy`].
    #[must_use]
    pub(crate) fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    pub(crate) async fn start(self) -> System {
        let redis = Redis::start().await;
        let proxy = if self.proxied {
            Some(FaultProxy::start(redis.port()).await)
        } else {
            None
        };
        let s3 = S3::start().await;
        let postgres = if self.own_postgres {
            Some(Postgres::start().await)
        } else {
            None
        };
        let database_url = match &postgres {
            Some(own) => own.migrated_database().await,
            None => Postgres::shared().await.migrated_database().await,
        };
        let port = free_port();
        let redis_url = redis_url(&redis, proxy.as_ref());
        let mut system = System {
            api: api_program(&database_url, &redis_url, &s3, port)
                .envs(self.api_env)
                .start(),
            workers: Vec::new(),
            admin: Vec::new(),
            redis,
            proxy,
            s3,
            postgres,
            database_url,
            base: format!("http://127.0.0.1:{port}"),
            port,
            client: Client::builder().no_proxy().build().unwrap(),
            token: jwt(SECRET, USER, Value::Null),
            worker_env: self.worker_env,
        };
        system.wait_ready(SOON).await;
        for _ in 0..self.workers {
            system.add_worker().await;
        }
        system
    }
}

fn redis_url(redis: &Redis, proxy: Option<&FaultProxy>) -> String {
    proxy.map_or_else(
        || redis.url(),
        |proxy| format!("redis://127.0.0.1:{}", proxy.port()),
    )
}

fn api_program(database_url: &str, redis_url: &str, s3: &S3, port: u16) -> Program {
    Program::new(bin("agent-api"))
        .env("DATABASE_URL", database_url)
        .env("REDIS_URL", redis_url)
        .env("JWT_SECRET", SECRET)
        .env("API_BIND_ADDR", format!("127.0.0.1:{port}"))
        .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", free_port()))
        .env("LLM_PRIMARY_PROVIDER", "scripted")
        .env("S3_ENDPOINT", s3.endpoint())
        .env("S3_ACCESS_KEY", s3.access_key())
        .env("S3_SECRET_KEY", s3.secret_key())
        .env("S3_REGION", s3.region())
        .env("S3_WORKSPACE_BUCKET", s3.bucket())
}

impl System {
    /// One more worker; returns when it is ready. Its index is `workers.len() - 1`.
    pub(crate) async fn add_worker(&mut self) {
        let admin = free_port();
        let worker = Program::new(bin("agent-worker"))
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", redis_url(&self.redis, self.proxy.as_ref()))
            .env("LLM_PRIMARY_PROVIDER", "scripted")
            .env("S3_ENDPOINT", self.s3.endpoint())
            .env("S3_ACCESS_KEY", self.s3.access_key())
            .env("S3_SECRET_KEY", self.s3.secret_key())
            .env("S3_REGION", self.s3.region())
            .env("S3_WORKSPACE_BUCKET", self.s3.bucket())
            .env("WORKER_ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .env("WORKER_RETRY_BASE_MS", "300")
            .envs(self.worker_env.clone())
            .start();
        self.workers.push(worker);
        self.admin.push(admin);
        let url = format!("http://127.0.0.1:{admin}/readyz");
        eventually(SOON, || async { self.code(&url).await == Some(200) }).await;
    }

    /// The API again, on the same port; returns when it is ready.
    pub(crate) async fn restart_api(&mut self) {
        let redis_url = redis_url(&self.redis, self.proxy.as_ref());
        self.api = api_program(&self.database_url, &redis_url, &self.s3, self.port).start();
        self.wait_ready(SOON).await;
    }

    /// A second API over the same stores, and its base URL; returns when it is ready.
    pub(crate) async fn second_api(&self) -> (Process, String) {
        let port = free_port();
        let redis_url = redis_url(&self.redis, self.proxy.as_ref());
        let api = api_program(&self.database_url, &redis_url, &self.s3, port).start();
        let base = format!("http://127.0.0.1:{port}");
        eventually(SOON, || async {
            self.code(&format!("{base}/ready")).await == Some(200)
        })
        .await;
        (api, base)
    }

    /// The status code of a GET, `None` when nobody answers.
    pub(crate) async fn code(&self, url: &str) -> Option<u16> {
        let answer = self.client.get(url).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    pub(crate) async fn wait_ready(&self, limit: Duration) {
        let url = format!("{}/ready", self.base);
        eventually(limit, || async { self.code(&url).await == Some(200) }).await;
    }

    pub(crate) async fn post(&self, body: &Value) -> Response {
        self.post_to(&self.base, body).await
    }

    pub(crate) async fn post_to(&self, base: &str, body: &Value) -> Response {
        let request = self.client.post(format!("{base}/agent/execute"));
        request.bearer_auth(&self.token).json(body).send().await.unwrap()
    }

    /// `/agent/execute` that must succeed.
    #[track_caller]
    pub(crate) fn execute(&self, body: Value) -> impl Future<Output = Value> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.post(&body).await;
            let status = answer.status();
            let text = answer.text().await.unwrap();
            assert_eq!(status, StatusCode::OK, "{caller}: {body} -> {text}");
            serde_json::from_str(&text).unwrap()
        }
    }

    /// The id of a new run, not started.
    pub(crate) async fn create(&self, prompt: &str) -> String {
        let answer = self.execute(json!({"action": "create", "prompt": prompt})).await;
        assert_eq!(answer["status"], "created");
        answer["run_id"].as_str().unwrap().to_owned()
    }

    /// Any action that names a run.
    pub(crate) async fn act(&self, action: &str, run_id: &str) -> Value {
        self.execute(json!({"action": action, "run_id": run_id})).await
    }

    /// The id of a new, started run.
    pub(crate) async fn begin(&self, prompt: &str) -> String {
        let run_id = self.create(prompt).await;
        let answer = self.act("start", &run_id).await;
        assert_eq!(answer["status"], "queued");
        run_id
    }

    pub(crate) async fn status(&self, run_id: &str) -> String {
        let answer = self.act("status", run_id).await;
        answer["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_status<'a>(
        &'a self,
        run_id: &'a str,
        wanted: &'a str,
        limit: Duration,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut last = String::new();
            let deadline = Instant::now() + limit;
            while Instant::now() < deadline {
                last = self.status(run_id).await;
                if last == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let log = self.task_log(run_id).await;
            panic!("{caller}: {last} instead of {wanted} after {limit:?}:\n{log}");
        }
    }

    /// The log as psql shows it, for messages of failed tests.
    pub(crate) async fn task_log(&self, run_id: &str) -> String {
        let sql = "SELECT string_agg(seq || ' ' || log_type || ' ' || message, E'\n' ORDER BY seq)
                   FROM agent_task_logs WHERE run_id::text = $1";
        self.text(sql, run_id).await
    }

    pub(crate) fn stream_url(&self, run_id: &str) -> String {
        format!("{}/agent/logs/{run_id}/stream", self.base)
    }

    pub(crate) fn named_url(&self, run_id: &str) -> String {
        format!("{}/agent/run/{run_id}/stream", self.base)
    }

    /// Either stream, from the start to `complete`.
    pub(crate) async fn watch(&self, url: &str) -> Vec<Frame> {
        let stream = Sse::connect(url, Some(&self.token), None).await;
        stream.collect_until_complete(LONG).await
    }

    pub(crate) async fn sql(&self, sql: &str, run_id: &str) -> Vec<tokio_postgres::Row> {
        let (client, session) = tokio_postgres::connect(&self.database_url, tokio_postgres::NoTls)
            .await
            .unwrap();
        let session = tokio::spawn(session);
        let rows = if sql.contains("$1") {
            client.query(sql, &[&run_id]).await
        } else {
            client.query(sql, &[]).await
        };
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        session.await.unwrap().unwrap();
        rows
    }

    pub(crate) async fn count(&self, sql: &str, run_id: &str) -> i64 {
        self.sql(sql, run_id).await[0].get(0)
    }

    /// One text, empty when null.
    pub(crate) async fn text(&self, sql: &str, run_id: &str) -> String {
        let rows = self.sql(sql, run_id).await;
        rows[0].get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// How many steps of the run have this status.
    pub(crate) async fn steps(&self, run_id: &str, status: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM agent_steps WHERE run_id::text = $1 AND status = '{status}'");
        self.count(&sql, run_id).await
    }

    /// Waits until this step has this status.
    pub(crate) async fn wait_step(&self, run_id: &str, number: i32, status: &str) {
        let sql = format!(
            "SELECT count(*) FROM agent_steps WHERE run_id::text = $1 AND step_number = {number} AND status = '{status}'"
        );
        let there = eventually_some(SOON, || async {
            (self.count(&sql, run_id).await == 1).then_some(())
        });
        assert!(
            there.await.is_some(),
            "step {number} is not {status}:\n{}",
            self.task_log(run_id).await
        );
    }

    pub(crate) async fn wait_steps(&self, run_id: &str, status: &str, number: i64) {
        let there = eventually_some(SOON, || async {
            (self.steps(run_id, status).await >= number).then_some(())
        });
        assert!(
            there.await.is_some(),
            "no {number} steps {status}:\n{}",
            self.task_log(run_id).await
        );
    }

    pub(crate) fn length(&self, list: &str) -> usize {
        let answer = self.redis.cli(&["LLEN", &format!("jobs:{list}")]);
        answer.parse().unwrap()
    }

    pub(crate) fn jobs(&self, list: &str) -> Vec<Value> {
        let text = self.redis.cli(&["LRANGE", &format!("jobs:{list}"), "0", "-1"]);
        let job = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        text.lines().filter(|line| !line.is_empty()).map(job).collect()
    }

    pub(crate) fn lengths(&self) -> HashMap<&'static str, usize> {
        LISTS.iter().map(|&list| (list, self.length(list))).collect()
    }

    /// A job leaves its list right after the commit that ends its run.
    pub(crate) async fn assert_queue_empties(&self) {
        let empty = eventually_some(SOON, || async {
            self.lengths().values().all(|&len| len == 0).then_some(())
        });
        assert!(empty.await.is_some(), "{:?}", self.lengths());
    }

    /// What must hold for every run that ended: seqs 1..n, one `complete` at the end, paired tool frames,
    /// both stream forms and psql telling the same story. Gives the named frames.
    pub(crate) async fn assert_whole(&self, run_id: &str) -> Vec<Frame> {
        let default = self.watch(&self.stream_url(run_id)).await;
        let named = self.watch(&self.named_url(run_id)).await;
        let stored = self
            .count(
                "SELECT count(*) FROM agent_task_logs WHERE run_id::text = $1",
                run_id,
            )
            .await;
        let expected: Vec<i64> = (1..=stored).collect();
        assert_eq!(ids(&default), expected);
        assert_eq!(ids(&named), expected);
        assert_tools_are_paired(&named);
        let completes = default.iter().filter(|frame| frame.is_complete()).count();
        assert_eq!(completes, 1);
        named
    }

    pub(crate) async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let client = self.s3.client();
        let object = client.get_object().bucket(self.s3.bucket()).key(key);
        let object = object.send().await.ok()?;
        Some(object.body.collect().await.unwrap().to_vec())
    }
}
