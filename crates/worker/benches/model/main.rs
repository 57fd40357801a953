//! Figures of a model call, with the model's own time left out: a table, then one line of JSON.
//!
//! Start it with `scripts/local/bench.sh model`. A worker process works runs whose model is a server here, over real Postgres
//! and Redis. Overhead of a turn: from the last byte of a reply to the next request. First token: from the write of a reply's
//! first words to their frame on the run's channel. Memory of a waiting run: what the worker grows by when as many runs again
//! wait for their users.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints its figures, and ends where something fails"
)]

use domain::{Clock, Ids, RunId, SystemClock, SystemIds};
use runs::{Created, Db, NewRun, Orchestration, RunRules};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::{Postgres, Process, Program, Redis, bin, eventually, free_port};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const USAGE: &str = "usage: bench.sh model [--quick] [--json FILE]";
const LIMIT: Duration = Duration::from_mins(2);
/// Turns of a run; the last one completes it.
const TURNS: usize = 45;
/// A run with this prompt asks its user at its first turn.
const WAITS: &str = "wait for me";

/// What, unit and value, and the aim.
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    aim: &'static str,
}

/// Times seen by the model server.
#[derive(Debug, Default)]
struct Seen {
    replied: Option<Instant>,
    /// From a reply to the next request, in ms.
    overhead: Vec<f64>,
    first_words: Vec<Instant>,
    turn: usize,
}

#[derive(Debug)]
struct System {
    _postgres: Postgres,
    redis: Redis,
    worker: Process,
    orchestration: Orchestration,
    seen: Arc<Mutex<Seen>>,
    psql: tokio_postgres::Client,
}

fn main() {
    let (mut runs, mut waiting, mut file) = (10, 300, None);
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => (runs, waiting) = (2, 30),
            "--json" => file = args.next(),
            _ => {
                println!("{USAGE}");
                std::process::exit(64);
            }
        }
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let figures = runtime.block_on(measure(runs, waiting));
    for Figure {
        name,
        value,
        unit,
        aim,
    } in &figures
    {
        println!("{name:<58} {value:>10.2} {unit:<4} {aim}");
    }
    let all: serde_json::Map<String, Value> = figures
        .iter()
        .map(|figure| {
            let value = json!({"value": figure.value, "unit": figure.unit});
            (figure.name.clone(), value)
        })
        .collect();
    let line = json!({"bench": "model", "figures": all}).to_string();
    println!("{line}");
    if let Some(file) = file {
        std::fs::write(file, line).unwrap();
    }
}

async fn measure(runs: usize, waiting: usize) -> Vec<Figure> {
    let system = System::start().await;
    let mut arrivals = vec![];
    for _ in 0..runs {
        arrivals.extend(system.work().await);
    }
    // The first ones bring whatever the worker keeps for good: buffers, connections.
    system.let_wait(waiting).await;
    let before = system.resident_kib();
    system.let_wait(waiting).await;
    let grown = system.resident_kib() - before;
    let seen = system.seen.lock().unwrap();
    let written = &seen.first_words;
    assert_eq!(
        written.len(),
        arrivals.len(),
        "each reply's first words were shown"
    );
    let shown: Vec<f64> = written
        .iter()
        .zip(&arrivals)
        .map(|(written, arrived)| arrived.duration_since(*written).as_secs_f64() * 1e3)
        .collect();
    let times = [
        ("overhead of a turn", &seen.overhead, "aim: p50 <= 3 ms"),
        (
            "first words on the channel after their arrival",
            &shown,
            "aim: p50 <= 5 ms",
        ),
    ];
    let mut figures: Vec<Figure> = times
        .into_iter()
        .flat_map(|(name, samples, aim)| {
            [(0.5, "p50"), (0.95, "p95")].map(|(share, label)| Figure {
                name: format!("{name}, {label}"),
                value: at(samples, share),
                unit: "ms",
                aim,
            })
        })
        .collect();
    figures.push(Figure {
        name: format!("worker's memory per waiting run ({waiting} more)"),
        value: grown / waiting as f64,
        unit: "KiB",
        aim: "aim: 0",
    });
    figures
}

fn at(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

impl System {
    async fn start() -> Self {
        let (postgres, redis) = (Postgres::start().await, Redis::start().await);
        let database_url = postgres.migrated_database().await;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, seen.clone()));
        let admin = free_port();
        let worker = Program::new(bin("agent-worker"))
            .env("DATABASE_URL", &database_url)
            .env("REDIS_URL", redis.url())
            .env("LLM_PRIMARY_PROVIDER", "openai")
            .env("OPENAI_BASE_URL", model)
            .env("OPENAI_API_KEY", "a-key-of-the-bench")
            // The model here does nothing but talk.
            .env("AGENT_STALL_DETECTION", "off")
            .env("WORKER_ADMIN_ADDR", format!("127.0.0.1:{admin}"))
            .start();
        let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(SystemIds));
        let (psql, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let db = Db::from_url(&database_url).unwrap();
        Self {
            _postgres: postgres,
            redis,
            worker,
            orchestration: Orchestration::new(db, clock, ids),
            seen,
            psql,
        }
    }

    /// Works one run to its end; gives the times at which first words were shown.
    async fn work(&self) -> Vec<Instant> {
        {
            let mut seen = self.seen.lock().unwrap();
            (seen.turn, seen.replied) = (0, None);
        }
        let run = self.create("talk").await;
        let shown = self.listen(run).await;
        self.start_run(run).await;
        eventually(LIMIT, || async {
            let sql = "SELECT status = 'completed' FROM agent_runs WHERE id::text = $1";
            let rows = self.psql.query(sql, &[&run.to_string()]).await.unwrap();
            rows[0].get::<_, bool>(0)
        })
        .await;
        let shown = shown.lock().unwrap();
        shown.clone()
    }

    async fn create(&self, prompt: &str) -> RunId {
        let new = NewRun {
            user_id: "u-1".into(),
            prompt: prompt.to_owned(),
            connector_ids: vec![],
            project_id: None,
            priority: 0,
            auto_start: false,
            retry_of: None,
            copy_workspace: false,
            rules: RunRules::default(),
            traceparent: String::new(),
            max_retries: 0,
        };
        let Created::New(made) = self.orchestration.create(new, None).await.unwrap() else {
            panic!("no key was given");
        };
        made.run.id
    }

    async fn start_run(&self, run: RunId) {
        let start = domain::Command::Start {
            job_id: domain::JobId(SystemIds.uuid()),
        };
        self.orchestration
            .command(&"u-1".into(), run, start, "")
            .await
            .unwrap();
    }

    /// Leaves as many more runs waiting for their users.
    async fn let_wait(&self, count: usize) {
        let sql = "SELECT count(*) FROM agent_runs WHERE status = 'waiting_user' AND lease_owner IS NULL";
        let present = async || {
            let row = self.psql.query_one(sql, &[]).await.unwrap();
            row.get::<_, i64>(0)
        };
        let wanted = present().await + count as i64;
        for _ in 0..count {
            let run = self.create(WAITS).await;
            self.start_run(run).await;
        }
        eventually(LIMIT, async || present().await == wanted).await;
    }

    fn resident_kib(&self) -> f64 {
        let path = format!("/proc/{}/status", self.worker.pid());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()).unwrap();
        number.parse().unwrap()
    }

    /// Subscribes to the run's channel and notes when each reply's first frame comes.
    async fn listen(&self, run: RunId) -> Arc<Mutex<Vec<Instant>>> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.redis.port()))
            .await
            .unwrap();
        let ask = format!("PSUBSCRIBE *{run}*\r\n");
        socket.write_all(ask.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(socket).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == ":1" {
                break;
            }
        }
        let shown = Arc::new(Mutex::new(vec![]));
        let noted = shown.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let now = Instant::now();
                let frame: Value = serde_json::from_str(&line).unwrap_or_default();
                let metadata = &frame["metadata"];
                if metadata["event"] == "token" && metadata["index"] == 0 && metadata["turn"] != 0 {
                    noted.lock().unwrap().push(now);
                }
            }
        });
        shown
    }
}

/// A model server with one answer after the other, and nothing else.
async fn serve(listener: TcpListener, seen: Arc<Mutex<Seen>>) {
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        tokio::spawn(answer(BufReader::new(socket), seen.clone()));
    }
}

async fn answer(mut socket: BufReader<TcpStream>, seen: Arc<Mutex<Seen>>) {
    let mut line = String::new();
    while socket.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let asked = Instant::now();
        let is_check = line.starts_with("GET");
        let mut length = 0;
        loop {
            line.clear();
            socket.read_line(&mut line).await.unwrap();
            if line.trim().is_empty() {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await.unwrap();
        line.clear();
        if is_check {
            let none = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            socket.write_all(none.as_bytes()).await.unwrap();
            continue;
        }
        let body = String::from_utf8(body).unwrap();
        if body.contains(WAITS) {
            let turn = usize::from(body.contains("\"tools\""));
            let call = ("request_input", json!({"message": "And now?"}));
            start_reply(&mut socket).await;
            finish_reply(&mut socket, turn, (turn == 1).then_some(call)).await;
        } else {
            reply(&mut socket, &seen, asked).await;
        }
    }
}

async fn reply(socket: &mut BufReader<TcpStream>, seen: &Mutex<Seen>, asked: Instant) {
    let turn = {
        let mut seen = seen.lock().unwrap();
        if let Some(replied) = seen.replied.take() {
            let overhead = asked.duration_since(replied).as_secs_f64() * 1e3;
            seen.overhead.push(overhead);
        }
        seen.turn += 1;
        seen.turn - 1
    };
    start_reply(socket).await;
    if turn > 0 {
        seen.lock().unwrap().first_words.push(Instant::now());
        chunk(socket, &delta(&json!({"content": "Well "}), None)).await;
        // The words are on their way before the rest comes.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let call = match turn {
        0 => None,
        TURNS => Some(("task_complete", json!({}))),
        _ => Some(("message", json!({"message": "well"}))),
    };
    // The next request may come before the last write returns.
    seen.lock().unwrap().replied = (turn < TURNS).then(Instant::now);
    finish_reply(socket, turn, call).await;
}

async fn start_reply(socket: &mut BufReader<TcpStream>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
}

/// The plan, or a call of a tool, and the end: one write, so that all of it arrives at once.
async fn finish_reply(socket: &mut BufReader<TcpStream>, turn: usize, call: Option<(&str, Value)>) {
    let plan =
        json!({"goal": "g", "total_estimated_credits": 0, "phases": [{"phase_number": 1, "name": "p"}]});
    let (body, finish) = match call {
        None => (json!({"content": plan.to_string()}), "stop"),
        Some((name, input)) => {
            let function = json!({"name": name, "arguments": input.to_string()});
            let call =
                json!({"index": 0, "id": format!("c{turn}"), "type": "function", "function": function});
            (json!({"tool_calls": [call]}), "tool_calls")
        }
    };
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}});
    let said = [
        delta(&body, None),
        delta(&json!({}), Some(finish)),
        format!("data: {usage}\n\ndata: [DONE]\n\n"),
    ]
    .concat();
    let framed = format!("{:x}\r\n{said}\r\n0\r\n\r\n", said.len());
    socket.write_all(framed.as_bytes()).await.unwrap();
}

fn delta(delta: &Value, finish: Option<&str>) -> String {
    let chunk = json!({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    format!("data: {chunk}\n\n")
}

async fn chunk(socket: &mut BufReader<TcpStream>, data: &str) {
    let framed = format!("{:x}\r\n{data}\r\n", data.len());
    socket.write_all(framed.as_bytes()).await.unwrap();
}
