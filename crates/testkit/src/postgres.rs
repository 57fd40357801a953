//! A private Postgres cluster on a free loopback port, with cheap databases made from a template.
//!
//! As root the server runs as `postgres` (else `nobody`), because Postgres refuses uid 0.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::guard::{Ending, Guard, Guarded, Launch, find, tail};
use crate::port::free_port;

const READY_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_mins(1);
const PORT_TRIES: u32 = 10;
const INSTALL: &str =
    "Postgres is needed for this test: apt-get install postgresql (or set PG_BIN to its bin directory)";
const TEMPLATE: &str = "template_migrated";
/// The project's SQL files; also the ones a release embeds.
const MIGRATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");

/// What `agent-api migrate` keeps, so that a program started on a migrated database finds it current.
const LEDGER: &str = "CREATE SCHEMA IF NOT EXISTS runtime;
CREATE TABLE IF NOT EXISTS runtime.schema_migrations (
    version text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

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

enum Start {
    Ready(Guarded),
    PortTaken,
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
        let template = self.url(TEMPLATE);
        execute(&template, LEDGER).await;
        for (version, sql) in migrations() {
            let checksum: String = Sha256::digest(&sql)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let script = format!(
                "BEGIN;\n{sql}\n;INSERT INTO runtime.schema_migrations (version, checksum) \
                 VALUES ('{version}', '{checksum}');\nCOMMIT"
            );
            let result = try_execute(&template, &script).await;
            result.unwrap_or_else(|error| panic!("migration {version}: {error:?}"));
        }
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

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

fn log(dir: &Path) -> PathBuf {
    dir.join("postgres.log")
}

/// Version (file name without `.up.sql`) and text, in order.
fn migrations() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(MIGRATIONS).unwrap_or_else(|error| panic!("{MIGRATIONS}: {error}"));
    let files = entries.map(|entry| entry.expect("readable directory").path());
    let mut found: Vec<(String, String)> = files
        .filter_map(|path| {
            let version = path.file_name()?.to_str()?.strip_suffix(".up.sql")?.to_owned();
            let sql =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Some((version, sql))
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no *.up.sql in {MIGRATIONS}");
    found
}

/// Newest installed version first, unless `PG_BIN` names one.
fn program(name: &str) -> PathBuf {
    let mut dirs: Vec<PathBuf> = std::env::var_os("PG_BIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    let mut installed: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    installed.sort();
    dirs.extend(installed.into_iter().rev().map(|(_, dir)| dir));
    find(name, &dirs).unwrap_or_else(|| panic!("{name}: {INSTALL}"))
}

/// Whom to become, when we are root.
fn user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let account = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten());
    let account = account.expect("as root, an account `postgres` or `nobody` is needed to run Postgres");
    Some((account.uid.as_raw(), account.gid.as_raw()))
}

fn init(dir: &Path, guard: &mut Guard) {
    let user = user();
    if let Some((uid, gid)) = user {
        chown(dir, Some(uid), Some(gid)).expect("root may chown");
    }
    let data = dir.join("data").to_string_lossy().into_owned();
    let args = [
        "--no-sync",
        "--locale=C",
        "--encoding=UTF8",
        "--auth=trust",
        "--username=postgres",
        "-D",
        &data,
    ];
    let launch = Launch {
        program: program("initdb"),
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        clear_env: false,
        user,
        stdout: log(dir),
        stderr: log(dir),
        dir: dir.to_owned(),
    };
    let status = Guarded::run(&launch, guard);
    assert!(status.success(), "initdb failed:\n{}", tail(&log(dir)));
}

fn args(dir: &Path, port: u16, settings: &[&str]) -> Vec<String> {
    let mut args = vec!["-D".to_owned(), dir.join("data").to_string_lossy().into_owned()];
    let fixed = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", dir.display()),
        "max_connections=300".to_owned(),
        "timezone=UTC".to_owned(),
        // Files in the data directory instead of /dev/shm: nothing is left there after a SIGKILL.
        "dynamic_shared_memory_type=mmap".to_owned(),
    ];
    for setting in fixed
        .into_iter()
        .chain(settings.iter().map(|&text| text.to_owned()))
    {
        args.extend(["-c".to_owned(), setting]);
    }
    args
}

async fn launch(dir: &Path, port: u16, settings: &[&str], guard: &mut Guard) -> Start {
    let mut process = Guarded::start(
        &Launch {
            program: program("postgres"),
            args: args(dir, port, settings),
            env: Vec::new(),
            clear_env: false,
            user: user(),
            stdout: log(dir),
            stderr: log(dir),
            dir: dir.to_owned(),
        },
        guard,
    );
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        if process.try_wait().is_some() {
            let words = tail(&log(dir));
            assert!(
                words.contains("Address already in use"),
                "Postgres ended:\n{words}"
            );
            return Start::PortTaken;
        }
        if answers(port, dir).await {
            return Start::Ready(process);
        }
        assert!(
            Instant::now() < deadline,
            "Postgres is not ready:\n{}",
            tail(&log(dir))
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// True when the server on `port` takes queries and its data lies in `dir`.
async fn answers(port: u16, dir: &Path) -> bool {
    let ask = async {
        let (client, session) = connect(&url(port, "postgres")).await.ok()?;
        let row = client.query_one("SHOW data_directory", &[]).await.ok()?;
        drop(client);
        session.await.ok()?;
        Some(Path::new(row.get::<_, &str>(0)) == dir.join("data"))
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(5), ask).await,
        Ok(Some(true))
    )
}

async fn connect(url: &str) -> Result<(Client, tokio::task::JoinHandle<()>), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let session = tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("testkit: database session: {error}");
        }
    });
    Ok((client, session))
}

async fn try_execute(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, session) = connect(url).await?;
    let result = client.batch_execute(sql).await;
    drop(client);
    session.await.expect("a session does not panic");
    result
}

async fn execute(url: &str, sql: &str) {
    try_execute(url, sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
