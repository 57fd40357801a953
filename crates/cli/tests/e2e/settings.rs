//! Programs without settings, `--help`, and the README's table.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use testkit::{Postgres, Process, Program, Redis, bin, eventually, free_port};

const LIMIT: Duration = Duration::from_mins(1);

async fn output(program: Program) -> (Option<i32>, Process) {
    let mut process = program.start();
    let status = process.wait(LIMIT).await;
    (status.code(), process)
}

fn program(name: &str) -> Program {
    Program::new(bin(name))
}

#[tokio::test]
async fn missing_settings_are_all_named_in_one_line_and_end_the_program_with_64() {
    let stores = "DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD), REDIS_URL (or DRAGONFLY_HOST)";
    let (code, api) = output(program("agent-api")).await;
    assert_eq!(code, Some(64));
    assert_eq!(
        api.stderr().trim_end(),
        format!("missing required settings: {stores}, JWT_SECRET (or JWT_JWKS_URL)")
    );
    let (code, worker) = output(program("agent-worker")).await;
    assert_eq!(code, Some(64));
    let words = worker.stderr();
    assert_eq!(words.trim_end().lines().count(), 1, "{words}");
    assert!(
        words.starts_with(&format!("missing required settings: {stores}, ")),
        "{words}"
    );
    for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"] {
        assert!(words.contains(name), "{words}");
    }
}

#[tokio::test]
async fn an_empty_setting_counts_as_absent_and_wrong_ones_are_listed() {
    let (code, api) = output(
        program("agent-api")
            .env("DATABASE_URL", "")
            .env("REDIS_URL", "")
            .env("JWT_SECRET", ""),
    )
    .await;
    assert_eq!(code, Some(64));
    assert!(
        api.stderr().contains("missing required settings: DATABASE_URL"),
        "{}",
        api.stderr()
    );
    for name in ["agent-api", "agent-worker"] {
        let wrong = program(name)
            .env("DATABASE_URL", "postgres://u:p@127.0.0.1:1/x")
            .env("REDIS_URL", "http://127.0.0.1")
            .env("JWT_SECRET", "s")
            .env("LLM_PRIMARY_PROVIDER", "scripted")
            .env("STARTUP_TIMEOUT_SECONDS", "soon");
        let (code, wrong) = output(wrong).await;
        let words = wrong.stderr();
        assert_eq!(code, Some(64), "{name}: {words}");
        assert!(words.starts_with("invalid settings: "), "{name}: {words}");
        assert!(
            words.contains("REDIS_URL") && words.contains("STARTUP_TIMEOUT_SECONDS"),
            "{name}: {words}"
        );
        assert_eq!(words.trim_end().lines().count(), 1, "{name}: {words}");
    }
}

#[tokio::test]
async fn postgres_away_at_the_start_ends_the_programs_with_69() {
    for name in ["agent-api", "agent-worker"] {
        let dead = free_port();
        let started = program(name)
            .env("DATABASE_URL", format!("postgres://u:p@127.0.0.1:{dead}/x"))
            .env("REDIS_URL", format!("redis://127.0.0.1:{dead}"))
            .env("JWT_SECRET", "s")
            .env("LLM_PRIMARY_PROVIDER", "scripted")
            .env("API_BIND_ADDR", format!("127.0.0.1:{}", free_port()))
            .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", free_port()))
            .env("WORKER_ADMIN_ADDR", format!("127.0.0.1:{}", free_port()))
            .env("STARTUP_TIMEOUT_SECONDS", "1");
        let (code, process) = output(started).await;
        assert_eq!(code, Some(69), "{name}: {}{}", process.stdout(), process.stderr());
    }
}

#[tokio::test]
async fn help_and_version_work_without_any_setting() {
    for name in ["agent-api", "agent-worker", "agentctl"] {
        for flag in ["--help", "--version"] {
            let (code, process) = output(program(name).arg(flag)).await;
            assert_eq!(code, Some(0), "{name} {flag}: {}", process.stderr());
            assert!(
                !process.stdout().is_empty() && process.stderr().is_empty(),
                "{name} {flag}"
            );
        }
    }
}

/// Both programs with stores and free ports.
fn serving(name: &str, database_url: &str, redis: &Redis, port: u16) -> Program {
    program(name)
        .env("DATABASE_URL", database_url)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", "s")
        .env("LLM_PRIMARY_PROVIDER", "scripted")
        .env("API_BIND_ADDR", format!("127.0.0.1:{port}"))
        .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{}", free_port()))
        .env("WORKER_ADMIN_ADDR", format!("127.0.0.1:{port}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_started_at_once_on_an_empty_database_agree_on_its_schema() {
    let redis = Redis::start().await;
    let database_url = Postgres::shared().await.database().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut started = Vec::new();
    for (name, path) in [("agent-api", "ready"), ("agent-worker", "readyz")].repeat(3) {
        let port = free_port();
        let process = serving(name, &database_url, &redis, port).start();
        started.push((process, format!("http://127.0.0.1:{port}/{path}")));
    }
    for (process, url) in &mut started {
        let ready = || async {
            let answer = client.get(url.as_str()).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        };
        eventually(LIMIT, ready).await;
        assert!(process.ended().is_none());
    }
    let migrate = program("agent-api")
        .arg("migrate")
        .env("DATABASE_URL", &database_url);
    assert_eq!(output(migrate).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_ends_programs_that_may_not_change_it_with_69() {
    let redis = Redis::start().await;
    let database_url = Postgres::shared().await.database().await;
    for name in ["agent-api", "agent-worker"] {
        let started = serving(name, &database_url, &redis, free_port())
            .env("DB_AUTO_MIGRATE", "false")
            .env("STARTUP_TIMEOUT_SECONDS", "2");
        let (code, process) = output(started).await;
        assert_eq!(code, Some(69), "{name}: {}{}", process.stdout(), process.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_ends_the_programs_with_69() {
    let redis = Redis::start().await;
    let database_url = Postgres::shared().await.migrated_database().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for name in ["agent-api", "agent-worker"] {
        let started = serving(name, &database_url, &redis, port).env("STARTUP_TIMEOUT_SECONDS", "2");
        let (code, process) = output(started).await;
        assert_eq!(code, Some(69), "{name}: {}{}", process.stdout(), process.stderr());
    }
}

/// The names behind `[env: ` in a help text.
fn settings_of(help: &str) -> BTreeSet<String> {
    let parts = help.split("[env:").skip(1);
    let name = |part: &str| {
        part.trim_start()
            .split(['=', ']'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    parts.map(name).collect()
}

/// The names in backticks in the first column of the table below `## Settings`.
fn settings_in(readme: &str) -> BTreeSet<String> {
    let (_, section) = readme
        .split_once("\n## Settings")
        .expect("README.md has the heading `## Settings`");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let column = |row: &str| row.split('|').nth(1).unwrap_or_default().to_owned();
    let names = |cell: String| {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect::<Vec<_>>()
    };
    rows.map(column).flat_map(names).collect()
}

#[tokio::test]
async fn the_readme_lists_exactly_the_settings_that_help_shows() {
    let mut shown = BTreeSet::new();
    for name in ["agent-api", "agent-worker"] {
        let (_, process) = output(program(name).arg("--help")).await;
        shown.extend(settings_of(&process.stdout()));
    }
    assert!(
        shown.contains("DATABASE_URL") && shown.contains("WORKER_CONCURRENCY"),
        "{shown:?}"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let listed = settings_in(&readme);
    let only_help: Vec<_> = shown.difference(&listed).collect();
    let only_readme: Vec<_> = listed.difference(&shown).collect();
    assert!(
        only_help.is_empty() && only_readme.is_empty(),
        "only in --help: {only_help:?}; only in README.md: {only_readme:?}"
    );
}
