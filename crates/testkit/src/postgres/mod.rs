//! A private Postgres cluster on a free loopback port, with cheap databases made from a template.
//!
//! As root the server runs as `postgres` (else `nobody`), because Postgres refuses uid 0.

mod schema;
mod server;
mod session;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::OnceCell;

use crate::guard::{Ending, Guard, Guarded, tail};
use crate::port::free_port;
use server::{READY_LIMIT, Start, init, launch, log};
use session::{execute, url};

const STOP_LIMIT: Duration = Duration::from_mins(1);
const PORT_TRIES: u32 = 10;
const TEMPLATE: &str = "template_migrated";
/// Speed before durability: the data never outlives the test process anyway.
const FAST: [&str; 8] = [
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "autovacuum=off",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
];
/// For tests that stop or kill the server and look at what survived.
const DURABLE: [&str; 1] = ["fsync=on"];

/// One cluster. Dropped = killed and its data removed.
#[derive(Debug)]
pub struct Postgres {
    process: Guarded,
    guard: Guard,
    dir: PathBuf,
    port: u16,
    settings: &'static [&'static str],
    count: AtomicU32,
    template: OnceCell<()>,
}

impl Postgres {
    /// The cluster of this test process, started on first use (about 0.4 s), without fsync.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::with(&FAST)).await
    }

    /// An own cluster with fsync on, for tests that stop it.
    pub async fn start() -> Self {
        Self::with(&DURABLE).await
    }

    async fn with(settings: &'static [&'static str]) -> Self {
        let dir = crate::dir::fresh("postgres");
        let mut guard = Guard::new(Ending::Quit, &dir);
        init(&dir, &mut guard);
        for _ in 0..PORT_TRIES {
            let port = free_port();
            if let Start::Ready(process) = launch(&dir, port, settings, &mut guard).await {
                return Self {
                    process,
                    guard,
                    dir,
                    port,
                    settings,
                    count: AtomicU32::new(0),
                    template: OnceCell::new(),
                };
            }
        }
        panic!(
            "Postgres found no free port in {PORT_TRIES} tries:\n{}",
            tail(&log(&dir))
        );
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of the postmaster.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its data and its socket lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `postgres://postgres@127.0.0.1:PORT/DATABASE`
    pub fn url(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// The URL of a fresh, empty database.
    pub async fn database(&self) -> String {
        self.create("template0").await
    }

    /// The URL of a fresh database with all files of `migrations/*.up.sql` applied and
    /// noted in `runtime.schema_migrations` (about 10 ms after the first).
    pub async fn migrated_database(&self) -> String {
        self.template.get_or_init(|| self.make_template()).await;
        self.create(TEMPLATE).await
    }

    async fn create(&self, template: &str) -> String {
        let name = format!("test_{}", self.count.fetch_add(1, Ordering::Relaxed));
        execute(
            &self.url("postgres"),
            &format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"),
        )
        .await;
        self.url(&name)
    }

    async fn make_template(&self) {
        execute(
            &self.url("postgres"),
            &format!("CREATE DATABASE {TEMPLATE} TEMPLATE template0"),
        )
        .await;
        schema::apply(&self.url(TEMPLATE)).await;
    }

    /// SIGINT (fast shutdown: sessions are cut), and waits until it is gone.
    pub fn stop(&mut self) {
        self.process.signal(Signal::SIGCONT);
        self.process.signal(Signal::SIGINT);
        assert!(
            self.process.wait(STOP_LIMIT).is_some(),
            "Postgres does not stop:\n{}",
            tail(&log(&self.dir))
        );
        self.process.end(&mut self.guard);
    }

    /// SIGQUIT (as in a crash: recovery at the next start), and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.end(&mut self.guard);
    }

    /// Starts it again on the same port and data; stops it before, if it still runs.
    pub async fn restart(&mut self) {
        self.stop();
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if let Start::Ready(process) = launch(&self.dir, self.port, self.settings, &mut self.guard).await
            {
                self.process = process;
                return;
            }
        }
        panic!(
            "port {} was taken by another process:\n{}",
            self.port,
            tail(&log(&self.dir))
        );
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.process.end(&mut self.guard);
    }
}
