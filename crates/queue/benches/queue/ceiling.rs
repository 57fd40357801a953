//! What the server does with plain commands of the same kind, by redis-benchmark.

use crate::figures::{Figure, median};
use crate::support::Server;
use std::process::Command;

const CONNECTIONS: &str = "16";
const REQUESTS: &str = "50000";
const PIPELINE: &str = "16";
/// About the size of a job.
const BYTES: usize = 250;

/// Per second.
#[derive(Debug)]
pub(crate) struct Ceiling {
    pub(crate) lpush: f64,
    pub(crate) lpush_piped: f64,
    pub(crate) lmove: f64,
    pub(crate) script: f64,
}

impl Ceiling {
    pub(crate) fn figures(&self, fsync: &str) -> Vec<Figure> {
        let line =
            |what: &str, value| Figure::new(format!("{fsync}: ceiling, redis-benchmark {what}"), "/s", value);
        vec![
            line("LPUSH, 16 connections", self.lpush),
            line("LPUSH, pipelines of 16", self.lpush_piped),
            line("LMOVE, 16 connections", self.lmove),
            line("EVALSHA 'return 1', 16 connections", self.script),
        ]
    }
}

pub(crate) fn measure(server: &Server, rounds: usize) -> Ceiling {
    let digest = server.redis.cli(&["SCRIPT", "LOAD", "return 1"]);
    let element = "x".repeat(BYTES);
    let lpush: [&str; 3] = ["LPUSH", "ceiling", &element];
    let of = |piped: bool, command: &[&str]| {
        let rates: Vec<f64> = (0..rounds).map(|_| run(server, piped, command)).collect();
        median(&rates)
    };
    let ceiling = Ceiling {
        lpush: of(false, &lpush),
        lpush_piped: of(true, &lpush),
        lmove: of(false, &["LMOVE", "ceiling", "ceiling", "RIGHT", "LEFT"]),
        script: of(false, &["EVALSHA", &digest, "0"]),
    };
    server.clear();
    ceiling
}

fn run(server: &Server, piped: bool, command: &[&str]) -> f64 {
    let port = server.redis.port().to_string();
    let mut benchmark = Command::new("redis-benchmark");
    benchmark.args(["-p", &port, "-c", CONNECTIONS, "-n", REQUESTS, "--csv"]);
    if piped {
        benchmark.args(["-P", PIPELINE]);
    }
    let output = benchmark.args(command).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = words.lines().last().unwrap();
    let (_, rates) = line
        .rsplit_once("\",\"")
        .map_or(("", line), |_| line.split_once("\",\"").unwrap());
    rates.split('"').next().unwrap().parse().unwrap()
}
