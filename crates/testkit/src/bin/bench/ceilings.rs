//! What the stores and the web framework alone can do here, in the same run.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use axum::Json;
use axum::routing::post;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::Plan;
use crate::numbers::{Figure, median};
use crate::system::{Stores, client};

/// Connections of every load.
pub(crate) const CONNECTIONS: usize = 8;

/// Per second.
#[derive(Debug)]
pub(crate) struct Ceilings {
    pub(crate) pgbench: f64,
    pub(crate) redis: f64,
    pub(crate) axum: f64,
}

impl Ceilings {
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let per_s = |name: &str, value| Figure::new(name, "/s", value);
        vec![
            per_s("ceiling: pgbench simple-update, 8 connections", self.pgbench),
            per_s("ceiling: redis-benchmark LPUSH, 8 connections", self.redis),
            per_s("ceiling: bare axum handler, 8 connections", self.axum),
        ]
    }
}

pub(crate) async fn measure(stores: &Stores, plan: Plan) -> Ceilings {
    let database = stores.postgres.database().await;
    pgbench(&["-i", "-q", &database]);
    let seconds = plan.ceiling.as_secs().to_string();
    let connections = CONNECTIONS.to_string();
    let (mut postgres, mut redis, mut axum) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let words = pgbench(&[
            "-N",
            "-n",
            "-c",
            &connections,
            "-j",
            "2",
            "-T",
            &seconds,
            &database,
        ]);
        postgres.push(after(&words, "tps = "));
        redis.push(redis_benchmark(stores.redis.port()));
        axum.push(bare_handler(plan).await);
    }
    Ceilings {
        pgbench: median(postgres),
        redis: median(redis),
        axum: median(axum),
    }
}

/// From PATH, else beside the newest installed server.
fn pgbench(args: &[&str]) -> String {
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let beside = installed
        .map(|entry| entry.path().join("bin/pgbench"))
        .filter(|path| path.is_file())
        .max();
    let program = beside.unwrap_or_else(|| PathBuf::from("pgbench"));
    output(Command::new(program).args(args))
}

fn redis_benchmark(port: u16) -> f64 {
    let (port, connections) = (port.to_string(), CONNECTIONS.to_string());
    let mut command = Command::new("redis-benchmark");
    command.args([
        "-p",
        &port,
        "-c",
        &connections,
        "-n",
        "50000",
        "-t",
        "lpush",
        "--csv",
    ]);
    let words = output(&mut command);
    let line = words
        .lines()
        .find(|line| line.starts_with("\"LPUSH"))
        .unwrap_or_else(|| panic!("{words}"));
    let field = line.split(',').nth(1).unwrap_or_default().trim_matches('"');
    field.parse().unwrap_or_else(|_| panic!("{words}"))
}

fn output(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {words}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    words
}

/// The number behind `name`.
fn after(words: &str, name: &str) -> f64 {
    let (_, rest) = words
        .rsplit_once(name)
        .unwrap_or_else(|| panic!("no {name:?} in {words}"));
    let number = rest.split_whitespace().next().unwrap_or_default();
    number.parse().unwrap_or_else(|_| panic!("{words}"))
}

/// The same client and the same size of bodies against a handler that does nothing.
async fn bare_handler(plan: Plan) -> f64 {
    let answer = json!({"run_id": "7a5f0000-0000-4000-8000-000000000000", "status": "queued",
                        "message": "Agent execution queued for processing", "plan": null});
    let app = axum::Router::new().route("/", post(|Json(_): Json<Value>| async move { Json(answer) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let body = json!({"action": "start", "run_id": "7a5f0000-0000-4000-8000-000000000000"});
    let begun = Instant::now();
    let connection = || async {
        let client = client();
        let mut sent = 0_u32;
        while begun.elapsed() < plan.ceiling {
            let answer = client.post(&url).json(&body).send().await.expect("an answer");
            answer.bytes().await.expect("a body");
            sent += 1;
        }
        sent
    };
    let sent: u32 = join_all((0..CONNECTIONS).map(|_| connection()))
        .await
        .iter()
        .sum();
    server.abort();
    f64::from(sent) / begun.elapsed().as_secs_f64()
}
