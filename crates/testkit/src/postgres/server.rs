//! The server process: finding it, making its data directory, starting it, knowing that it is ready.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};

use super::session::{connect, url};
use crate::guard::{Guard, Guarded, Launch, find, tail};

/// How long a server may take until it answers (a recovery included).
pub(super) const READY_LIMIT: Duration = Duration::from_secs(30);
const INSTALL: &str =
    "Postgres is needed for this test: apt-get install postgresql (or set PG_BIN to its bin directory)";

pub(super) enum Start {
    Ready(Guarded),
    PortTaken,
}

pub(super) fn log(dir: &Path) -> PathBuf {
    dir.join("postgres.log")
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

pub(super) fn init(dir: &Path, guard: &mut Guard) {
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

pub(super) async fn launch(dir: &Path, port: u16, settings: &[&str], guard: &mut Guard) -> Start {
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
