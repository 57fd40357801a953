//! The system under test: real programs, real stores, and a proxy of its own between each program and each store.
//!
//! Invariants:
//! - A program reaches a store only through its own [`FaultProxy`], so one link can fail alone.
//! - The harness itself (observer, counting tools, load) reaches the stores and programs directly.
//! - The output of every process is kept in the directory of the system, also of those that were killed.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use testkit::{FaultProxy, Postgres, Process, Program, Redis, S3, bin, eventually, free_port, jwt};

/// Secret of the tokens of [`System::token`].
const SECRET: &str = "a-secret-of-the-chaos-suite";
/// Owner of all runs.
pub const USER: &str = "chaos";
const READY_LIMIT: Duration = Duration::from_mins(1);

/// What a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
}

impl Role {
    const fn program(self) -> &'static str {
        match self {
            Self::Api => "agent-api",
            Self::Worker => "agent-worker",
        }
    }
}

/// A store that a program reaches through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreName {
    Redis,
    Postgres,
    S3,
}

impl StoreName {
    pub const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::S3];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::S3 => "s3",
        }
    }
}

/// The three links of one program.
#[derive(Debug)]
pub struct Links {
    redis: FaultProxy,
    postgres: FaultProxy,
    s3: FaultProxy,
}

impl Links {
    async fn start(stores: &Stores) -> Self {
        Self {
            redis: FaultProxy::start(stores.redis_port).await,
            postgres: FaultProxy::start(stores.postgres_port).await,
            s3: FaultProxy::start(stores.s3_port).await,
        }
    }

    pub fn to(&self, store: StoreName) -> &FaultProxy {
        match store {
            StoreName::Redis => &self.redis,
            StoreName::Postgres => &self.postgres,
            StoreName::S3 => &self.s3,
        }
    }

    /// Ends every fault of the three links.
    pub fn restore(&self) {
        for store in StoreName::ALL {
            self.to(store).restore();
        }
    }
}

#[derive(Debug, Default)]
struct Running {
    process: Option<Process>,
    starts: u32,
    paused: bool,
    /// SIGTERM was sent.
    asked: bool,
}

/// A process that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    /// It was asked to, with SIGTERM.
    pub asked: bool,
}

/// One program: its process (if it runs), its links, its settings.
#[derive(Debug)]
pub struct Node {
    /// `api-0`, `worker-2`, …
    pub name: String,
    pub role: Role,
    /// Public listener of an API, admin listener of a worker.
    pub port: u16,
    pub links: Links,
    env: Vec<(String, String)>,
    logs: PathBuf,
    running: Mutex<Running>,
}

impl Node {
    fn locked(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `http://127.0.0.1:PORT`
    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the process unless it runs; does not wait until it is ready.
    pub fn start(&self) {
        let mut running = self.locked();
        if running.process.is_some() {
            return;
        }
        running.starts += 1;
        running.paused = false;
        running.asked = false;
        let program = Program::new(bin(self.role.program())).envs(self.env.clone());
        running.process = Some(program.start());
    }

    /// SIGKILL, and waits until it is gone. False when it did not run.
    pub fn kill(&self) -> bool {
        let mut running = self.locked();
        let Some(mut process) = running.process.take() else {
            return false;
        };
        process.kill();
        self.keep_logs(&process, running.starts);
        true
    }

    /// SIGTERM; its exit is met by [`Node::reap`].
    pub fn term(&self) {
        let mut running = self.locked();
        if let Some(process) = &mut running.process {
            process.unpause();
            process.term();
            running.asked = true;
        }
    }

    /// SIGSTOP. False when it does not run or is stopped already.
    pub fn pause(&self) -> bool {
        let mut running = self.locked();
        let paused = running.paused;
        let Some(process) = &mut running.process else {
            return false;
        };
        if !paused {
            process.pause();
            running.paused = true;
        }
        !paused
    }

    /// SIGCONT.
    pub fn unpause(&self) {
        let mut running = self.locked();
        running.paused = false;
        if let Some(process) = &mut running.process {
            process.unpause();
        }
    }

    /// Runs and is not stopped.
    pub fn is_up(&self) -> bool {
        let running = self.locked();
        running.process.is_some() && !running.paused
    }

    pub fn pid(&self) -> Option<u32> {
        self.locked().process.as_ref().map(Process::pid)
    }

    /// The end of a process that nobody killed; it is gone afterwards.
    pub fn reap(&self) -> Option<Ended> {
        let mut running = self.locked();
        let status = running.process.as_mut()?.ended()?;
        let process = running.process.take()?;
        self.keep_logs(&process, running.starts);
        let stdout = process.stdout();
        let asked = std::mem::take(&mut running.asked);
        Some(Ended {
            status,
            stdout,
            asked,
        })
    }

    /// What the present process has written to stdout; empty when none runs.
    pub fn stdout(&self) -> String {
        self.locked()
            .process
            .as_ref()
            .map(Process::stdout)
            .unwrap_or_default()
    }

    fn keep_logs(&self, process: &Process, start: u32) {
        for kind in ["stdout", "stderr"] {
            let to = self.logs.join(format!("{}.{start}.{kind}", self.name));
            if let Err(error) = std::fs::copy(process.dir().join(kind), &to) {
                eprintln!("chaos: {} is not kept: {error}", to.display());
            }
        }
    }
}

/// How the system is made.
#[derive(Debug, Clone)]
pub struct Setup {
    pub apis: usize,
    pub workers: usize,
    /// Settings of all programs besides the addresses of the stores.
    pub env: Vec<(String, String)>,
    /// Where the output of the processes is kept.
    pub dir: PathBuf,
}

impl Setup {
    /// Two APIs and three workers that write below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            apis: 2,
            workers: 3,
            env: Vec::new(),
            dir: dir.to_owned(),
        }
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn size(mut self, apis: usize, workers: usize) -> Self {
        self.apis = apis;
        self.workers = workers;
        self
    }

    /// Starts stores and programs; returns when all programs are ready.
    pub async fn start(self) -> System {
        let logs = self.dir.join("logs");
        std::fs::create_dir_all(&logs).unwrap_or_else(|error| panic!("{}: {error}", logs.display()));
        let (stores, addresses) = Stores::start().await;
        let mut system = System {
            apis: Vec::new(),
            workers: Vec::new(),
            database_url: addresses.database_url.clone(),
            redis_port: stores.redis_port,
            token: jwt(SECRET, USER, serde_json::Value::Null),
            dir: self.dir.clone(),
            stores,
        };
        for number in 0..self.apis {
            let node = self.node(Role::Api, number, &system.stores, &addresses).await;
            system.apis.push(node);
        }
        for number in 0..self.workers {
            let node = self.node(Role::Worker, number, &system.stores, &addresses).await;
            system.workers.push(node);
        }
        for node in system.nodes() {
            node.start();
        }
        system.wait_ready().await;
        system
    }

    async fn node(&self, role: Role, number: usize, stores: &Stores, addresses: &Addresses) -> Node {
        let links = Links::start(stores).await;
        let port = free_port();
        let name = match role {
            Role::Api => format!("api-{number}"),
            Role::Worker => format!("worker-{number}"),
        };
        let mut env = addresses.env(&links);
        env.extend(match role {
            Role::Api => own(&[
                ("API_BIND_ADDR", format!("127.0.0.1:{port}")),
                ("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", free_port())),
            ]),
            Role::Worker => own(&[("WORKER_ADMIN_ADDR", format!("127.0.0.1:{port}"))]),
        });
        env.extend(self.env.clone());
        Node {
            name,
            role,
            port,
            links,
            env,
            logs: self.dir.join("logs"),
            running: Mutex::default(),
        }
    }
}

fn own(pairs: &[(&str, String)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

/// What the programs are told about the stores.
#[derive(Debug)]
struct Addresses {
    database_url: String,
    postgres_port: u16,
    s3: [(&'static str, String); 4],
}

impl Addresses {
    fn env(&self, links: &Links) -> Vec<(String, String)> {
        let direct = format!(":{}/", self.postgres_port);
        let through = format!(":{}/", links.postgres.port());
        let mut env = own(&[
            ("DATABASE_URL", self.database_url.replace(&direct, &through)),
            ("REDIS_URL", format!("redis://127.0.0.1:{}", links.redis.port())),
            ("S3_ENDPOINT", format!("http://127.0.0.1:{}", links.s3.port())),
            ("JWT_SECRET", SECRET.to_owned()),
            ("LLM_PRIMARY_PROVIDER", "scripted".to_owned()),
            ("POOL_SIZE", "8".to_owned()),
            ("STARTUP_TIMEOUT_SECONDS", "60".to_owned()),
        ]);
        env.extend(own(&self.s3));
        env
    }
}

/// The private stores. Each is behind a lock because killing and starting it again is exclusive.
#[derive(Debug)]
pub struct Stores {
    pub redis: tokio::sync::Mutex<Redis>,
    pub postgres: tokio::sync::Mutex<Postgres>,
    pub s3: tokio::sync::Mutex<S3>,
    redis_port: u16,
    postgres_port: u16,
    s3_port: u16,
}

impl Stores {
    async fn start() -> (Self, Addresses) {
        let redis = Redis::start().await;
        let postgres = Postgres::start().await;
        let s3 = S3::start().await;
        let addresses = Addresses {
            database_url: postgres.migrated_database().await,
            postgres_port: postgres.port(),
            s3: [
                ("S3_ACCESS_KEY", s3.access_key().to_owned()),
                ("S3_SECRET_KEY", s3.secret_key().to_owned()),
                ("S3_REGION", s3.region().to_owned()),
                ("S3_WORKSPACE_BUCKET", s3.bucket().to_owned()),
            ],
        };
        let stores = Self {
            redis_port: redis.port(),
            postgres_port: postgres.port(),
            s3_port: s3.port(),
            redis: tokio::sync::Mutex::new(redis),
            postgres: tokio::sync::Mutex::new(postgres),
            s3: tokio::sync::Mutex::new(s3),
        };
        (stores, addresses)
    }
}

/// Programs and stores. Dropped = all processes gone.
#[derive(Debug)]
pub struct System {
    pub apis: Vec<Node>,
    pub workers: Vec<Node>,
    pub stores: Stores,
    /// Of the database, past the proxies.
    pub database_url: String,
    /// Of Redis, past the proxies.
    pub redis_port: u16,
    /// Bearer token of [`USER`].
    pub token: String,
    pub dir: PathBuf,
}

impl System {
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.apis.iter().chain(&self.workers)
    }

    /// Waits until every program answers its readiness probe with 200.
    pub async fn wait_ready(&self) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        for node in self.nodes() {
            let url = format!("{}/readyz", node.base());
            let ready = || async {
                let answer = client.get(&url).send().await;
                answer.is_ok_and(|answer| answer.status() == 200)
            };
            eventually(READY_LIMIT, ready).await;
        }
    }

    /// Ends every fault: links restored, stopped programs continued, dead ones started.
    pub fn heal(&self) {
        for node in self.nodes() {
            node.links.restore();
            node.unpause();
            node.start();
        }
    }

    /// Kills all programs; their output is in the directory afterwards.
    pub fn stop(&self) {
        for node in self.nodes() {
            node.unpause();
            node.kill();
        }
    }
}
