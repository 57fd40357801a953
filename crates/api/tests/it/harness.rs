//! A running server, its stores, and a stand-in for a worker.

use domain::change::Change;
use domain::{Event, Job, RunId, RunStatus, SystemClock, SystemIds, WorkerId};
use queue::{Queue, RedisOptions};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use runs::{Db, Orchestration};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testkit::{Postgres, Process, Program, Redis, eventually, eventually_some, free_port, jwt};

pub(crate) const SECRET: &str = "test-secret-of-sufficient-length";
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// A start waits for everything else the machine does at the time.
const STARTED: Duration = Duration::from_mins(1);

/// A server with its own database and Redis.
pub(crate) struct Api {
    pub(crate) process: Process,
    pub(crate) redis: Redis,
    pub(crate) db_url: String,
    pub(crate) base: String,
    pub(crate) internal: String,
    pub(crate) client: Client,
}

/// The program with every setting it needs; `extra` wins.
pub(crate) fn program(db_url: &str, redis_url: &str, ports: (u16, u16), extra: &[(&str, &str)]) -> Program {
    let settings = [
        ("DATABASE_URL", db_url.to_owned()),
        ("REDIS_URL", redis_url.to_owned()),
        ("JWT_SECRET", SECRET.to_owned()),
        ("API_BIND_ADDR", format!("127.0.0.1:{}", ports.0)),
        ("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", ports.1)),
        ("STARTUP_TIMEOUT_SECONDS", "20".to_owned()),
        // Tests of streams have one user with a thousand viewers.
        ("STREAM_MAX_PER_USER", "0".to_owned()),
    ];
    let mut program = Program::new(env!("CARGO_BIN_EXE_agent-api"));
    for (name, value) in settings {
        let own = extra.iter().find(|(key, _)| *key == name);
        let value = own.map_or(value, |(_, value)| (*value).to_owned());
        program = program.env(name, value);
    }
    let rest = extra.iter().filter(|(key, _)| !is_own(key));
    program.envs(rest.map(|(name, value)| (*name, *value)))
}

fn is_own(key: &str) -> bool {
    [
        "DATABASE_URL",
        "REDIS_URL",
        "JWT_SECRET",
        "API_BIND_ADDR",
        "RUNTIME_BIND_ADDR",
        "STARTUP_TIMEOUT_SECONDS",
        "STREAM_MAX_PER_USER",
    ]
    .contains(&key)
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(extra: &[(&str, &str)]) -> Self {
        let db_url = Postgres::shared().await.migrated_database().await;
        Self::on(db_url, Redis::start().await, extra).await
    }

    pub(crate) async fn on(db_url: String, redis: Redis, extra: &[(&str, &str)]) -> Self {
        let ports = (free_port(), free_port());
        let process = program(&db_url, &redis.url(), ports, extra).start();
        let api = Self {
            process,
            redis,
            db_url,
            base: format!("http://127.0.0.1:{}", ports.0),
            internal: format!("http://127.0.0.1:{}", ports.1),
            client: client(),
        };
        api.until_ready().await;
        api
    }

    async fn until_ready(&self) {
        let url = format!("{}/ready", self.base);
        let last = std::sync::Mutex::new("no answer".to_owned());
        let ready = eventually_some(STARTED, || async {
            let answer = self.client.get(&url).send().await.ok()?;
            let status = answer.status();
            *last.lock().unwrap() = answer.text().await.unwrap_or_default();
            (status == StatusCode::OK).then_some(())
        });
        assert!(
            ready.await.is_some(),
            "not ready within {STARTED:?}: {}",
            last.lock().unwrap()
        );
    }

    pub(crate) fn token(user: &str) -> String {
        jwt(SECRET, user, json!({}))
    }

    pub(crate) fn post(&self, user: &str, path: &str, body: &Value) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.base));
        request.bearer_auth(Self::token(user)).body(body.to_string())
    }

    pub(crate) fn get(&self, user: &str, path: &str) -> RequestBuilder {
        let request = self.client.get(format!("{}{path}", self.base));
        request.bearer_auth(Self::token(user))
    }

    /// Status and JSON of an execute call.
    pub(crate) async fn execute(&self, user: &str, body: Value) -> (u16, Value) {
        let sent = self.post(user, "/agent/execute", &body).send().await;
        read(sent.expect("answered")).await
    }

    /// As [`Api::execute`], which must succeed.
    pub(crate) async fn done(&self, user: &str, body: Value) -> Value {
        let (status, answer) = self.execute(user, body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    pub(crate) async fn create(&self, user: &str) -> RunId {
        let answer = self
            .done(user, json!({"action": "create", "prompt": "hello"}))
            .await;
        run_of(&answer)
    }

    pub(crate) async fn created_and_started(&self, user: &str) -> RunId {
        let run = self.create(user).await;
        self.done(user, json!({"action": "start", "run_id": run})).await;
        run
    }

    pub(crate) async fn act(&self, user: &str, action: &str, run: RunId) -> (u16, Value) {
        self.execute(user, json!({"action": action, "run_id": run})).await
    }

    pub(crate) fn length(&self, list: &str) -> usize {
        self.redis.cli(&["LLEN", list]).trim().parse().expect("a number")
    }

    pub(crate) fn stream_url(&self, run: RunId, rest: &str) -> String {
        format!("{}/agent/logs/{run}/stream{rest}", self.base)
    }

    pub(crate) fn named_url(&self, run: RunId, rest: &str) -> String {
        format!("{}/agent/run/{run}/stream{rest}", self.base)
    }

    pub(crate) async fn worker(&self) -> Worker {
        Worker::on(&self.db_url, &self.redis.url()).await
    }
}

pub(crate) fn client() -> Client {
    Client::builder()
        .no_proxy()
        .build()
        .expect("a client can be built")
}

pub(crate) fn run_of(answer: &Value) -> RunId {
    let id = answer["run_id"].as_str().expect("an id");
    id.parse().expect("a UUID")
}

pub(crate) async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    (status, body)
}

/// Commits and publishes as a worker would.
pub(crate) struct Worker {
    pub(crate) orchestration: Orchestration,
    pub(crate) queue: Queue,
    pub(crate) db: Db,
}

impl Worker {
    pub(crate) async fn on(db_url: &str, redis_url: &str) -> Self {
        let db = Db::from_url(db_url).expect("a sound URL");
        let queue = Queue::connect(&RedisOptions::for_url(redis_url)).await;
        Self {
            orchestration: Orchestration::new(db.clone(), Arc::new(SystemClock), Arc::new(SystemIds)),
            queue: queue.expect("sound settings"),
            db,
        }
    }

    async fn job_of(&self, run: RunId) -> Job {
        let mut found = None;
        eventually(SOON, || {
            let looked = self.queue.peek(queue::ListName::Pending, 0, 1000);
            async {
                let texts = looked.await.unwrap_or_default();
                let jobs = texts
                    .iter()
                    .filter_map(|text| serde_json::from_str::<Job>(text).ok());
                jobs.into_iter().any(|job| job.run_id == run)
            }
        })
        .await;
        for text in self
            .queue
            .peek(queue::ListName::Pending, 0, 1000)
            .await
            .expect("redis")
        {
            if let Ok(job) = serde_json::from_str::<Job>(&text)
                && job.run_id == run
            {
                found = Some(job);
            }
        }
        found.expect("the job is pending")
    }

    /// Takes a queued run; gives the epoch.
    pub(crate) async fn claim(&self, run: RunId) -> i64 {
        let job = self.job_of(run).await;
        let worker = WorkerId("test-worker".to_owned());
        let lease = Duration::from_mins(10);
        let claimed = self
            .orchestration
            .claim(run, &worker, &job, lease)
            .await
            .expect("claimed");
        self.publish(&claimed.committed.events).await;
        claimed.epoch
    }

    /// Takes a queued run as far as executing.
    pub(crate) async fn execute(&self, run: RunId) -> i64 {
        let epoch = self.claim(run).await;
        self.progress(run, epoch, vec![status(RunStatus::Executing)])
            .await;
        epoch
    }

    pub(crate) async fn progress(&self, run: RunId, epoch: i64, changes: Vec<Change>) -> Vec<Event> {
        let committed = self
            .orchestration
            .progress(run, epoch, changes)
            .await
            .expect("committed");
        self.publish(&committed.events).await;
        committed.events
    }

    pub(crate) async fn log(&self, run: RunId, epoch: i64, text: &str) -> Vec<Event> {
        self.progress(run, epoch, vec![Change::Log(domain::NewEvent::info(text))])
            .await
    }

    pub(crate) async fn complete(&self, run: RunId, epoch: i64) {
        self.progress(run, epoch, vec![status(RunStatus::Completed)])
            .await;
    }

    /// Redis may be away: publishing is only a hint.
    async fn publish(&self, events: &[Event]) {
        self.queue.publish(events).await.ok();
    }
}

pub(crate) fn status(to: RunStatus) -> Change {
    Change::Status { to, error: None }
}
