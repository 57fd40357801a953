//! Figures of the local sandbox, each beside what the machine can do without us in the same run: a table, then one line of
//! JSON.
//!
//! Start it with `scripts/local/bench.sh sandbox`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its figures, and ends where something fails"
)]

use agent::ports::{Program, Sandbox, SandboxRequest, Unheard};
use bytes::Bytes;
use clap::Parser;
use domain::{Ids, RunId, StepId, SystemIds, UserId};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::S3;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{LocalSandbox, SandboxOptions, ToolExecutor};
use worker::workspace::{S3Options, Workspaces};

/// Confines itself and becomes the tool.
const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-worker");
const FILES: usize = 10_000;
const USAGE: &str = "usage: bench.sh sandbox [--quick] [--json FILE]";

/// A figure: what, unit and value at half and at 95 of 100 measurements, and the aim if there is one.
struct Figure {
    name: &'static str,
    p50_ms: f64,
    p95_ms: f64,
    aim: &'static str,
}

fn figure(name: &'static str, aim: &'static str, mut took: Vec<Duration>) -> Figure {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    Figure {
        name,
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        aim,
    }
}

fn main() {
    let (mut rounds, mut files, mut to) = (200, FILES, None);
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => (rounds, files) = (20, FILES / 10),
            "--json" => to = args.next(),
            _ => {
                println!("{USAGE}");
                std::process::exit(64);
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let figures = runtime.block_on(measure(rounds, files));
    report(&figures, files, to.as_deref());
}

async fn measure(rounds: usize, files: usize) -> Vec<Figure> {
    let setup = Setup::new().await;
    let mut figures = vec![
        figure(
            "fork and exec of true",
            "ceiling",
            repeat(rounds, || plain(&["true"])),
        ),
        figure("bwrap true", "ceiling", repeat(rounds, || plain(&BWRAP))),
        figure(
            "agent-worker, confining itself, true",
            "",
            repeat(rounds, confined),
        ),
    ];
    figures.push(
        setup
            .programs("sandbox, no store: true", "<= 25", rounds, false)
            .await,
    );
    figures.push(
        setup
            .programs("sandbox, store without files: true", "", rounds, true)
            .await,
    );
    figures.push(setup.beside(rounds / 4).await);
    figures.extend(setup.sync(files).await);
    figures
}

const BWRAP: [&str; 6] = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"];

fn repeat(rounds: usize, mut one: impl FnMut()) -> Vec<Duration> {
    one();
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            one();
            start.elapsed()
        })
        .collect()
}

fn plain(argv: &[&str]) {
    assert!(
        Command::new(argv[0])
            .args(&argv[1..])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .status()
            .unwrap()
            .success()
    );
}

/// What the confinement adds to a process: our own program's start, the rules, one more execution.
fn confined() {
    use std::os::unix::process::CommandExt;
    let policy = toolbox::confine::Policy {
        writable: vec!["/tmp".into(), "/dev/null".into()],
        readable: ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/dev"]
            .map(Into::into)
            .to_vec(),
        network: true,
        ..Default::default()
    };
    let mut command = Command::new(PROGRAM);
    command.args([
        toolbox::confine::VERB,
        &serde_json::to_string(&policy).unwrap(),
        "--",
        "/usr/bin/true",
    ]);
    if nix::unistd::geteuid().is_root() {
        command.uid(64_999).gid(64_999);
    }
    assert!(command.status().unwrap().success());
}

struct Setup {
    sandbox: LocalSandbox,
    without_store: LocalSandbox,
    workspaces: Workspaces,
    _scratch: TempDir,
    _s3: S3,
}

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    s3: S3Options,
}

impl Setup {
    async fn new() -> Self {
        let s3 = S3::start().await;
        let (endpoint, bucket) = (s3.endpoint(), s3.bucket().to_owned());
        let store = Options::parse_from([
            "bench",
            "--s3-endpoint",
            &endpoint,
            "--s3-workspace-bucket",
            &bucket,
            "--s3-access-key",
            s3.access_key(),
            "--s3-secret-key",
            s3.secret_key(),
        ]);
        let workspaces = Workspaces::from_options(&store.s3);
        let open = std::fs::Permissions::from_mode(0o755);
        let scratch = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        let none = Workspaces::from_options(&Options::parse_from(["bench"]).s3);
        Self {
            sandbox: sandbox(&scratch.path().join("a"), workspaces.clone()).await,
            without_store: sandbox(&scratch.path().join("b"), none).await,
            workspaces,
            _scratch: scratch,
            _s3: s3,
        }
    }

    async fn programs(&self, name: &'static str, aim: &'static str, rounds: usize, store: bool) -> Figure {
        let sandbox = if store { &self.sandbox } else { &self.without_store };
        let mut took = vec![];
        for _ in 0..rounds {
            let start = Instant::now();
            run(sandbox, "true").await;
            took.push(start.elapsed());
        }
        figure(name, aim, took)
    }

    /// Four at a time, each call's own time.
    async fn beside(&self, rounds: usize) -> Figure {
        let mut took = vec![];
        for _ in 0..rounds {
            let one = || async {
                let start = Instant::now();
                run(&self.without_store, "true").await;
                start.elapsed()
            };
            let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
            took.extend([a, b, c, d]);
        }
        figure("sandbox, 4 at a time: true", "", took)
    }

    async fn sync(&self, files: usize) -> Vec<Figure> {
        let workspace = self
            .workspaces
            .of_run(&UserId::from("bench"), RunId(SystemIds.uuid()));
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let start = Instant::now();
        for number in 0..files {
            let dir = from.path().join(format!("d{}", number / 100));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("f{number}")), number.to_string()).unwrap();
        }
        let written = start.elapsed();
        let start = Instant::now();
        workspace
            .sync_up(from.path(), &worker::workspace::Manifest::default(), "shell")
            .await
            .unwrap();
        let up = start.elapsed();
        let start = Instant::now();
        let manifest = workspace.sync_down(to.path(), "shell").await.unwrap();
        let down = start.elapsed();
        assert_eq!(manifest.len(), files);
        let start = Instant::now();
        workspace.sync_up(to.path(), &manifest, "shell").await.unwrap();
        let again = start.elapsed();
        vec![
            figure("write the files to disk", "ceiling", vec![written]),
            figure("one PUT after the other", "ceiling", vec![self.puts(files).await]),
            figure("workspace up", "<= 5000", vec![up]),
            figure("workspace down", "<= 5000", vec![down]),
            figure("workspace up, nothing changed", "", vec![again]),
        ]
    }

    /// The store alone: a tenth of the files one by one, times ten.
    async fn puts(&self, files: usize) -> Duration {
        const PART: u32 = 10;
        let workspace = self
            .workspaces
            .of_run(&UserId::from("bench"), RunId(SystemIds.uuid()));
        let store = workspace.store("shell").unwrap();
        let start = Instant::now();
        for number in 0..files / PART as usize {
            let key = format!("{}raw/{number}", workspace.prefix());
            store
                .put(&key, Bytes::from_static(b"12345"), "text/plain")
                .await
                .unwrap();
        }
        start.elapsed() * PART
    }
}

async fn sandbox(scratch: &Path, workspaces: Workspaces) -> LocalSandbox {
    let options = SandboxOptions {
        tool_executor: ToolExecutor::Local,
        tool_scratch_dir: Some(scratch.to_owned()),
    };
    let sandbox =
        LocalSandbox::start_with(PROGRAM.as_ref(), &options, workspaces, std::sync::Arc::default()).await;
    assert!(sandbox.is_available(), "{}", sandbox.describe());
    sandbox
}

async fn run(sandbox: &LocalSandbox, command: &str) {
    let request = SandboxRequest {
        run_id: RunId(SystemIds.uuid()),
        step_id: StepId(SystemIds.uuid()),
        user_id: UserId::from("bench"),
        program: Program::Shell {
            command: command.to_owned(),
        },
        working_dir: "/workspace".to_owned(),
        timeout: Duration::from_mins(1),
    };
    let output = sandbox
        .run(&request, &Unheard, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(output.exit_code, Some(0), "{output:?}");
}

fn report(figures: &[Figure], files: usize, to: Option<&str>) {
    println!("| what ({files} files in the syncs) | p50 ms | p95 ms | aim |\n| --- | ---: | ---: | --- |");
    for one in figures {
        println!(
            "| {} | {:.1} | {:.1} | {} |",
            one.name, one.p50_ms, one.p95_ms, one.aim
        );
    }
    let all: Vec<_> = figures
        .iter()
        .map(|one| json!({"name": one.name, "p50_ms": one.p50_ms, "p95_ms": one.p95_ms, "aim": one.aim}))
        .collect();
    let line = json!({"bench": "sandbox", "files": files, "figures": all}).to_string();
    println!("{line}");
    if let Some(file) = to {
        std::fs::write(file, line + "\n").unwrap();
    }
}
