//! A private Redis: append-only file every second, no eviction, loopback only, data in the home.

use crate::up::binaries::Found;
use crate::up::home::Home;
use crate::up::keeper::Spec;
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A stop writes what is still in memory.
const GRACE: Duration = Duration::from_secs(30);
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The address for the programs.
pub fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// The server on this port. Its working directory is its data directory, so no path is ever in an argument.
pub fn spec(home: &Home, found: &Found, port: u16) -> Spec {
    let port = port.to_string();
    let args = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--dir",
        "./",
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--maxmemory-policy",
        "noeviction",
        "--daemonize",
        "no",
        "--save",
        "",
    ];
    Spec {
        name: "redis".to_owned(),
        log: "redis",
        program: found.path.clone(),
        args: args.iter().map(Into::into).collect(),
        env: vec![],
        directory: Some(home.file("redis")),
        user: None,
        stop_signal: Signal::SIGTERM,
        death_signal: Signal::SIGTERM,
        grace: GRACE,
    }
}

/// Whether the server answers and has its data loaded.
pub async fn answers(port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut answer = [0_u8; 5];
        stream.read_exact(&mut answer).await.ok()?;
        (&answer == b"+PONG").then_some(())
    };
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, asked).await, Ok(Some(())))
}
