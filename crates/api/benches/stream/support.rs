//! The system under measurement, writers, and the load process.

use crate::figures::Figure;
use crate::harness::{Api, Worker};
use domain::change::Change;
use domain::{Clock as _, NewEvent, RunId, SystemClock};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use testkit::{Postgres, Redis};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// About what a line of a tool's output is.
pub(crate) const TEXT: &str =
    "Compiling something with a name of ordinary length v0.1.0 (/workspace/project/crates/something)";

pub(crate) struct System {
    pub(crate) postgres: Postgres,
    pub(crate) api: Api,
    pub(crate) worker: Worker,
}

impl System {
    pub(crate) async fn start() -> Self {
        let postgres = Postgres::start().await;
        let url = postgres.migrated_database().await;
        let api = Api::on(url, Redis::start().await, &[("LOG_LEVEL", "warn")]).await;
        let worker = api.worker().await;
        Self {
            postgres,
            api,
            worker,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.api.base.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Runs that are executing, with their epochs.
    pub(crate) async fn runs(&self, count: usize) -> Vec<(RunId, i64)> {
        let mut runs = vec![];
        for _ in 0..count {
            let run = self.api.created_and_started("u").await;
            runs.push((run, self.worker.execute(run).await));
        }
        runs
    }

    pub(crate) fn rss_kib(&self) -> f64 {
        rss_kib(self.api.process.pid())
    }
}

pub(crate) fn lines(count: usize) -> Vec<Change> {
    (0..count).map(|_| Change::Log(NewEvent::info(TEXT))).collect()
}

pub(crate) fn rss_kib(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Seconds on a processor so far.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    let fields: Vec<f64> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    (fields[11] + fields[12]) / 100.0
}

pub(crate) fn now_us() -> u64 {
    SystemClock.now().as_microsecond() as u64
}

pub(crate) fn load_average(when: &str) -> Figure {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    Figure::new(format!("load average {when}"), "", load.unwrap_or(f64::NAN)).beside("CPUs", cpus as f64)
}

/// The load generator: a process of its own.
pub(crate) struct Load {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Opens `viewers` streams of these runs in turn; returns when all are open.
    pub(crate) async fn start(port: u16, viewers: usize, runs: &[(RunId, i64)], rest: &[&str]) -> Self {
        let ids: Vec<String> = runs.iter().map(|(run, _)| run.to_string()).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--load", &port.to_string(), &viewers.to_string(), &ids.join(",")])
            .args(rest)
            .env("LOAD_TOKEN", Api::token("u"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut load = Self { child, stdin, stdout };
        assert_eq!(load.line().await, "open");
        load
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_mins(5), self.stdout.next_line());
        line.await.expect("the load goes on").unwrap().expect("a line")
    }

    /// What it has seen when all streams have ended, or when it is told to stop. `commits`: run, seq, µs.
    pub(crate) async fn end(mut self, commits: &[(RunId, i64, u64)]) -> Value {
        let text: String = commits
            .iter()
            .map(|(run, seq, at)| format!("{run} {seq} {at}\n"))
            .collect();
        self.stdin.write_all(text.as_bytes()).await.unwrap();
        self.stdin.write_all(b"end\n").await.unwrap();
        let seen = serde_json::from_str(&self.line().await).unwrap();
        self.child.wait().await.unwrap();
        seen
    }
}
