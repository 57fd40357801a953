//! The system under test: real programs, real stores, and a proxy of its own between each program and each store.
//!
//! Invariants:
//! - A program reaches a store only through its own [`testkit::FaultProxy`], so one link can fail alone.
//! - The harness itself (observer, counting tools, load) reaches the stores and programs directly.
//! - The output of every process is kept in the directory of the system, also of those that were killed.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use testkit::{eventually, free_port, jwt};

use crate::clock::OwnClock;
pub use crate::node::{Ended, Links, Node, Role, StoreName};
pub use crate::stores::Stores;
use crate::stores::{Addresses, SECRET, own};

/// Owner of all runs.
pub const USER: &str = "chaos";
const READY_LIMIT: Duration = Duration::from_mins(1);

/// How the system is made.
#[derive(Debug, Clone)]
pub struct Setup {
    pub apis: usize,
    pub workers: usize,
    /// Settings of all programs besides the addresses of the stores.
    pub env: Vec<(String, String)>,
    /// Where the output of the processes is kept.
    pub dir: PathBuf,
    /// Where the programs are; beside this one when absent.
    pub bin_dir: Option<PathBuf>,
    /// The first worker gets a clock of its own.
    pub own_clock: bool,
}

impl Setup {
    /// Two APIs and three workers that write below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            apis: 2,
            workers: 3,
            env: Vec::new(),
            dir: dir.to_owned(),
            bin_dir: None,
            own_clock: false,
        }
    }

    #[must_use]
    pub fn bin_dir(mut self, dir: Option<&Path>) -> Self {
        self.bin_dir = dir.map(Path::to_owned);
        self
    }

    #[must_use]
    pub fn own_clock(mut self, own_clock: bool) -> Self {
        self.own_clock = own_clock;
        self
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
        let (stores, addresses) = Stores::start(&self.dir).await;
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
        // One clock that goes wrong among several.
        let clock = (self.own_clock && role == Role::Worker && number == 0)
            .then(|| OwnClock::new(&self.dir, &name))
            .flatten();
        env.extend(clock.iter().flat_map(OwnClock::env));
        Node {
            name,
            role,
            port,
            links,
            program: match &self.bin_dir {
                Some(dir) => dir.join(role.program()),
                None => testkit::bin(role.program()),
            },
            env,
            logs: self.dir.join("logs"),
            clock,
            running: Mutex::default(),
        }
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
