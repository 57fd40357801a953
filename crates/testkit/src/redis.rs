//! A private redis-server: AOF (everysec), no RDB, `noeviction`, its own directory and port.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::guard::{Ending, Guard, Guarded, Launch, find, tail};
use crate::port::free_port;

const READY_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const PORT_TRIES: u32 = 10;

/// One redis-server process. Dropped = killed and its data removed.
#[derive(Debug)]
pub struct Redis {
    process: Guarded,
    guard: Guard,
    dir: PathBuf,
    port: u16,
}

enum Start {
    Ready(Guarded),
    PortTaken,
}

impl Redis {
    /// Starts a server and waits until it answers (about 10 ms).
    ///
    /// # Panics
    /// If redis-server is not installed (names the install line) or does not come up.
    pub async fn start() -> Self {
        let dir = crate::dir::fresh("redis");
        let mut guard = Guard::new(Ending::KillGroup, &dir);
        for _ in 0..PORT_TRIES {
            let port = free_port();
            if let Start::Ready(process) = launch(&dir, port, &mut guard).await {
                return Self {
                    process,
                    guard,
                    dir,
                    port,
                };
            }
        }
        panic!(
            "redis-server found no free port in {PORT_TRIES} tries:\n{}",
            tail(&log(&dir))
        );
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its append-only file lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// SIGKILL, and waits until it is gone. The data stays for [`Redis::restart`].
    pub fn kill(&mut self) {
        self.process.end(&mut self.guard);
    }

    /// SIGTERM, and waits until it is gone.
    pub fn stop(&mut self) {
        self.process.signal(Signal::SIGCONT);
        self.process.signal(Signal::SIGTERM);
        assert!(
            self.process.wait(STOP_LIMIT).is_some(),
            "redis-server ignores SIGTERM"
        );
        self.process.end(&mut self.guard);
    }

    /// Starts it again on the same port and data; kills it before, if it still runs.
    pub async fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if let Start::Ready(process) = launch(&self.dir, self.port, &mut self.guard).await {
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

    /// SIGSTOP: connections stay open, nothing is answered.
    pub fn pause(&mut self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn unpause(&mut self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Runs redis-cli with these arguments; its output without the last newline (`--raw` form, so a
    /// list is one element per line, nil is empty).
    ///
    /// # Panics
    /// If redis-cli fails, e.g. because the server is down.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        let output = Command::new(find("redis-cli", &[]).expect(INSTALL))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "--raw"])
            .args(args)
            .output()
            .expect("redis-cli must start");
        let text = String::from_utf8_lossy(&output.stdout)
            .trim_end_matches('\n')
            .to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "redis-cli {args:?}: {text} {errors}");
        text
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.end(&mut self.guard);
    }
}

const INSTALL: &str = "redis-server and redis-cli are needed for this test: apt-get install redis-server";

fn log(dir: &Path) -> PathBuf {
    dir.join("redis.log")
}

async fn launch(dir: &Path, port: u16, guard: &mut Guard) -> Start {
    let port_text = port.to_string();
    let dir_text = dir.to_str().expect("temp dirs are UTF-8");
    let args = [
        ["--port", &port_text],
        ["--bind", "127.0.0.1"],
        ["--dir", dir_text],
        ["--appendonly", "yes"],
        ["--appendfsync", "everysec"],
        ["--save", ""],
        ["--maxmemory-policy", "noeviction"],
        ["--daemonize", "no"],
    ];
    let mut process = Guarded::start(
        &Launch {
            program: find("redis-server", &[]).unwrap_or_else(|| panic!("{INSTALL}")),
            args: args.concat().into_iter().map(str::to_owned).collect(),
            env: Vec::new(),
            clear_env: false,
            user: None,
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
                "redis-server ended:\n{words}"
            );
            return Start::PortTaken;
        }
        if answers(port, process.pid()).await {
            return Start::Ready(process);
        }
        assert!(
            Instant::now() < deadline,
            "redis-server is not ready:\n{}",
            tail(&log(dir))
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// True when the server on `port` has loaded its data and is our child.
async fn answers(port: u16, pid: u32) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"PING\r\nINFO server\r\nQUIT\r\n").await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Some(answer.starts_with("+PONG") && answer.contains(&format!("process_id:{pid}\r\n")))
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), ask).await,
        Ok(Some(true))
    )
}
