//! One program of the system: its process, its links to the stores, its settings.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use testkit::{FaultProxy, Process, Program};

use crate::clock::OwnClock;
use crate::stores::Stores;

/// What a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Api,
    Worker,
}

impl Role {
    pub(crate) const fn program(self) -> &'static str {
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
    pub(crate) async fn start(stores: &Stores) -> Self {
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
pub(crate) struct Running {
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
    pub(crate) program: std::path::PathBuf,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) logs: PathBuf,
    /// Of a program whose clock can be moved.
    pub clock: Option<OwnClock>,
    pub(crate) running: Mutex<Running>,
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
        let program = Program::new(&self.program).envs(self.env.clone());
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
