//! What operators do with the queue, and what hands do to it: `agentctl queue` finds and mends it, and so do workers.

use crate::support::{LONG, SOON, Setup, System, message, script, shell};
use serde_json::{Value, json};
use std::process::{Command, Output};
use std::time::Duration;
use testkit::{bin, eventually};

/// AA-68.
const HEALED: Duration = Duration::from_secs(30);
const FAILS: &str = "error";

/// `agentctl` with the addresses of this system and nothing else.
fn ctl(system: &System, args: &[&str]) -> Output {
    let mut command = Command::new(bin("agentctl"));
    command.env_clear().args(args).current_dir(std::env::temp_dir());
    command.env("DATABASE_URL", &system.database_url);
    command.env("REDIS_URL", system.redis.url());
    for name in ["PATH", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The JSON lines of a command, and its exit code.
fn told(system: &System, args: &[&str]) -> (Vec<Value>, Option<i32>) {
    let output = ctl(system, args);
    let lines = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    (lines, output.status.code())
}

#[track_caller]
fn ok(system: &System, args: &[&str]) -> String {
    let output = ctl(system, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{args:?}: {}\n{error}",
        out(&output)
    );
    out(&output)
}

/// Kinds that the doctor finds, sorted.
fn findings(system: &System) -> Vec<String> {
    let (lines, code) = told(system, &["queue", "doctor", "--json"]);
    let mut kinds: Vec<String> = lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap().to_owned())
        .collect();
    kinds.sort();
    assert_eq!(code, Some(i32::from(!kinds.is_empty())), "{lines:?}");
    kinds
}

fn failing(status: u16) -> String {
    script(&[json!({"type": FAILS, "status": status, "attempts": 99})])
}

async fn dead_run(system: &System) -> String {
    let run = system.begin(&failing(400)).await;
    system.wait_status(&run, "failed", LONG).await;
    eventually(SOON, || async {
        system
            .jobs("failed")
            .iter()
            .any(|job| job["run_id"] == run.as_str())
    })
    .await;
    run
}

fn letter_of(system: &System, run: &str) -> String {
    let letters = system.jobs("failed");
    let letter = letters.iter().find(|job| job["run_id"] == run);
    letter.unwrap()["job_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_shown_with_its_attempts_and_becomes_one_new_run_however_often_it_is_retried() {
    let system = Setup::workers(1)
        .worker_env("WORKER_RETRY_BASE_MS", "100")
        .start()
        .await;
    let run = system.begin(&failing(503)).await;
    system.wait_status(&run, "failed", LONG).await;
    eventually(SOON, || async { system.length("failed") == 1 }).await;
    let (letters, _) = told(&system, &["queue", "dead", "--reason", "max_attempts", "--json"]);
    let shown = &letters[0];
    assert_eq!(
        (&shown["run_id"], &shown["run"]["status"]),
        (&json!(run), &json!("failed"))
    );
    let attempts: Vec<i64> = shown["run"]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| told["attempt"].as_i64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 2, 3, 4], "{shown}");
    assert!(ok(&system, &["queue", "dead"]).contains("attempt 4"));
    assert!(
        told(&system, &["queue", "dead", "--reason", "poison", "--json"])
            .0
            .is_empty()
    );
    assert!(
        told(&system, &["queue", "dead", "--since", "0s", "--json"])
            .0
            .is_empty()
    );

    let job = letter_of(&system, &run);
    let raw = system.redis.cli(&["LINDEX", "jobs:failed", "0"]);
    let payload = json!({"prompt": script(&[message("better")]), "priority": 5}).to_string();
    let retry = ["queue", "retry", &job, "--payload", &payload, "--json"];
    let (first, code) = told(&system, &retry);
    assert_eq!(
        (code, &first[0]["outcome"]),
        (Some(0), &json!("new_run")),
        "{first:?}"
    );
    let new = first[0]["new_run_id"].as_str().unwrap().to_owned();
    assert_eq!(system.length("failed"), 0);
    // As after a crash between the new run and the letter's end.
    system.redis.cli(&["LPUSH", "jobs:failed", &raw]);
    let (second, _) = told(&system, &retry);
    assert_eq!(second[0]["new_run_id"], new.as_str());
    assert_eq!(system.length("failed"), 0);
    system.wait_status(&new, "completed", LONG).await;
    let sql = "SELECT retry_of::text || ' ' || priority FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.text(sql, &new).await, format!("{run} 5"));
    assert_eq!(system.count("SELECT count(*) FROM agent_runs", "").await, 2);
    assert_eq!(ctl(&system, &retry).status.code(), Some(1), "it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_retried_and_dropped_by_condition_and_those_that_cannot_be_say_why() {
    let system = Setup::workers(1).start().await;
    let (one, two) = (dead_run(&system).await, dead_run(&system).await);
    let created = system.create(&script(&[message("by hand")])).await;
    let unknown = "7a5f0000-0000-4000-8000-000000000000";
    system
        .redis
        .cli(&["LPUSH", "jobs:pending", &json!({"run_id": unknown}).to_string()]);
    system.redis.cli(&["LPUSH", "jobs:pending", "no json at all"]);
    eventually(SOON, || async { system.length("failed") == 4 }).await;
    assert_eq!(
        ctl(&system, &["queue", "retry"]).status.code(),
        Some(2),
        "nothing is named"
    );

    let (lines, code) = told(&system, &["queue", "retry", "--all", "--json"]);
    let outcome = |run: &Value| {
        let line = lines.iter().find(|line| line["run_id"] == *run).unwrap();
        line["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(code, Some(1));
    assert_eq!(
        (outcome(&json!(one)), outcome(&json!(two))),
        ("new_run".into(), "new_run".into())
    );
    assert_eq!(
        (outcome(&json!(unknown)), outcome(&Value::Null)),
        ("refused".into(), "refused".into())
    );
    assert!(
        lines
            .iter()
            .all(|line| line["outcome"] != "refused" || line["reason"].is_string())
    );

    // An undecodable letter whose run is named is a job of that run.
    let payload = json!({"run_id": created}).to_string();
    let output = ok(
        &system,
        &["queue", "retry", "--reason", "undecodable", "--payload", &payload],
    );
    assert!(output.contains("queued again"), "{output}");
    system.wait_status(&created, "completed", LONG).await;
    eventually(SOON, || async { system.length("failed") == 3 }).await;
    let drop = ["queue", "drop", "--error", "Run not found"];
    ok(&system, &drop);
    assert_eq!(
        ctl(&system, &["queue", "drop", "--all"]).status.code(),
        Some(2),
        "two need --yes"
    );
    ok(&system, &["queue", "drop", "--all", "--yes"]);
    assert_eq!(system.length("failed"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_gives_no_job_and_a_drain_waits_for_what_is_held() {
    let system = Setup::workers(1).start().await;
    let held = system.begin(&script(&[shell("sleep 6"), message("x")])).await;
    system.wait_step(&held, 1, "running").await;
    let output = ctl(&system, &["queue", "drain", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains(&held), "{}", out(&output));
    let waiting = system.begin(&script(&[message("later")])).await;
    ok(&system, &["queue", "drain", "--timeout", "60"]);
    system.wait_status(&held, "completed", SOON).await;
    let stats: Value = serde_json::from_str(&ok(&system, &["queue", "stats", "--json"])).unwrap();
    assert_eq!(
        (
            &stats["paused"],
            &stats["pending"],
            &stats["workers"],
            &stats["outbox_pending"]
        ),
        (&json!(true), &json!(1), &json!(1), &json!(0))
    );
    assert!(stats["oldest_pending_age_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(system.status(&waiting).await, "queued");
    ok(&system, &["queue", "resume"]);
    system.wait_status(&waiting, "completed", LONG).await;
}

/// Damage of every kind to a system whose workers are gone: who was held, queued, retrying, finished.
struct Damaged {
    system: System,
    expected: Vec<&'static str>,
}

/// One queued run each, and what a hand does to its entry.
async fn damage(system: System) -> Damaged {
    let cli = |args: &[&str]| system.redis.cli(args);
    let text_of = |list: &str, run: &str| {
        let all = cli(&["LRANGE", &format!("jobs:{list}"), "0", "-1"]);
        all.lines().find(|line| line.contains(run)).unwrap().to_owned()
    };
    let queued = || async { system.begin(&script(&[message("x")])).await };
    // Removed; twice; moved to another list; half forgotten; moved to the dead letters.
    let lost = text_of("pending", &queued().await);
    cli(&["LREM", "jobs:pending", "1", &lost]);
    let doubled = text_of("pending", &queued().await);
    cli(&["LPUSH", "jobs:pending", &doubled]);
    let moved = text_of("pending", &queued().await);
    cli(&["LREM", "jobs:pending", "1", &moved]);
    cli(&["LPUSH", "jobs:retry", &moved]);
    let buried = text_of("pending", &queued().await);
    cli(&["LREM", "jobs:pending", "1", &buried]);
    cli(&["LPUSH", "jobs:failed", &buried]);
    let torn: Value = serde_json::from_str(&text_of("pending", &queued().await)).unwrap();
    cli(&["HDEL", "jobs:body", torn["job_id"].as_str().unwrap()]);
    let forgotten: Value = serde_json::from_str(&text_of("pending", &queued().await)).unwrap();
    for key in ["jobs:body", "jobs:meta"] {
        cli(&["HDEL", key, forgotten["job_id"].as_str().unwrap()]);
    }
    // Foreign texts, in retry and in processing; a lease and a due time of nothing.
    cli(&["LPUSH", "jobs:retry", "nonsense"]);
    cli(&["LPUSH", "jobs:processing", "more nonsense"]);
    cli(&[
        "ZADD",
        "jobs:lease",
        "9999999999999",
        "0190aaaa-0000-7000-8000-000000000001",
    ]);
    cli(&[
        "ZADD",
        "jobs:retry:due",
        "9999999999999",
        "0190aaaa-0000-7000-8000-000000000002",
    ]);
    // An entry of an unknown run.
    let unknown = json!({"run_id": "7a5f0000-0000-4000-8000-000000000000"});
    cli(&["LPUSH", "jobs:pending", &unknown.to_string()]);
    let expected = vec![
        "doubled",
        "lost",
        "missing",
        "not_due",
        "stray_due",
        "stray_lease",
        "torn",
        "unleased",
        "unwanted",
        "unwanted",
        "wrong_list",
        "wrong_list",
    ];
    Damaged { system, expected }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_every_damage_and_mends_it_without_workers() {
    let damaged = damage(Setup::workers(0).start().await).await;
    let system = damaged.system;
    assert_eq!(findings(&system), damaged.expected);
    assert_eq!(findings(&system), damaged.expected, "looking changes nothing");
    let mended = ok(&system, &["queue", "doctor", "--fix"]);
    assert_eq!(findings(&system), [""; 0], "{mended}");
    assert_eq!(
        system.length("pending"),
        6 + 2,
        "six runs, two texts for the next worker to bury"
    );
    assert_eq!(
        (
            system.length("retry"),
            system.length("processing"),
            system.length("failed")
        ),
        (0, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_heal_every_damage_by_themselves() {
    let mut system = damage(Setup::workers(0).start().await).await.system;
    system.add_worker().await;
    let runs = system.sql("SELECT id::text FROM agent_runs", "").await;
    let runs: Vec<String> = runs.iter().map(|row| row.get(0)).collect();
    assert_eq!(runs.len(), 6);
    for run in &runs {
        system.wait_status(run, "completed", HEALED).await;
        assert_eq!(system.steps(run, "completed").await, 1);
        let token = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
        assert_eq!(system.count(token, run).await, 1, "executed twice");
    }
    // Three texts nobody can work on are dead letters.
    eventually(HEALED, || async { system.length("failed") == 3 }).await;
    eventually(HEALED, || async { findings(&system).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_held_and_retrying_jobs_is_named_and_healed_while_workers_run() {
    let system = Setup::workers(1)
        .worker_env("WORKER_CONCURRENCY", "1")
        .worker_env("WORKER_RETRY_BASE_MS", "60000")
        .start()
        .await;
    let later = script(&[
        json!({"type": FAILS, "status": 503, "attempts": 1, "retry_after": 60}),
        message("x"),
    ]);
    let retrying = system.begin(&later).await;
    eventually(SOON, || async { system.length("retry") == 1 }).await;
    let held = system.begin(&script(&[shell("sleep 45"), message("x")])).await;
    system.wait_step(&held, 1, "running").await;
    let job = |list: &str| system.jobs(list)[0]["job_id"].as_str().unwrap().to_owned();
    let (held_job, retry_job) = (job("processing"), job("retry"));
    // A worker heals within seconds what it holds; the doctor looks at once.
    let whole = || async {
        let of = |list: &str| -> Vec<Value> {
            system
                .jobs(list)
                .iter()
                .map(|job| job["run_id"].clone())
                .collect()
        };
        of("processing") == [json!(held)]
            && of("retry") == [json!(retrying)]
            && !system.redis.cli(&["ZSCORE", "jobs:lease", &held_job]).is_empty()
            && !system
                .redis
                .cli(&["ZSCORE", "jobs:retry:due", &retry_job])
                .is_empty()
            && system.length("pending") == 0
    };
    let raw = system.redis.cli(&["LINDEX", "jobs:processing", "0"]);
    for hand in [
        vec!["LREM", "jobs:processing", "1", &raw],
        vec!["LPUSH", "jobs:processing", &raw],
        vec!["LPUSH", "jobs:pending", &raw],
        vec!["ZREM", "jobs:lease", &held_job],
        vec!["RPOPLPUSH", "jobs:processing", "jobs:pending"],
        vec!["ZREM", "jobs:retry:due", &retry_job],
        vec!["LPOP", "jobs:retry"],
    ] {
        system.redis.cli(&hand);
        eventually(HEALED, whole).await;
    }
    assert_eq!(system.status(&held).await, "executing");
    let token = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.count(token, &held).await, 1, "executed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_runs_that_need_none_leave_the_queue() {
    let mut system = Setup::workers(0).start().await;
    let cancelled = system.begin(&script(&[message("x")])).await;
    let entry = system.redis.cli(&["LINDEX", "jobs:pending", "0"]);
    let id = system.jobs("pending")[0]["job_id"].as_str().unwrap().to_owned();
    let meta = system.redis.cli(&["HGET", "jobs:meta", &id]);
    system.act("stop", &cancelled).await;
    eventually(SOON, || async { system.length("pending") == 0 }).await;
    // The whole entry is back, as after the loss of the command that removed it.
    system.redis.cli(&["HSET", "jobs:meta", &id, &meta]);
    system.redis.cli(&["HSET", "jobs:body", &id, &entry]);
    system.redis.cli(&["LPUSH", "jobs:pending", &entry]);
    assert_eq!(findings(&system), ["stale"]);
    // Nobody claims, so it is the reconciler that takes it away.
    ok(&system, &["queue", "pause"]);
    system.add_worker().await;
    eventually(HEALED, || async { system.length("pending") == 0 }).await;
    assert_eq!(findings(&system), [""; 0]);
    let url = format!("http://127.0.0.1:{}/metrics", system.admin[0]);
    let metrics = system
        .client
        .get(&url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        "agent_reconciler_differences_total{kind=\"stale\"} 1",
        "agent_reconciler_differences_total{kind=\"missing\"} 0",
        "agent_lease_renewals_missed_total 0",
        "agent_orphans_healed_total 0",
        "agent_redeliveries_total 0",
        "agent_queue_oldest_pending_age_seconds 0",
        "agent_outbox_pending 0",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_queued_runs_are_back_within_seconds_of_a_flush() {
    const RUNS: i64 = 10_000;
    let mut system = Setup::workers(0).start().await;
    let sql = format!(
        "INSERT INTO agent_runs (id, origin, user_id, prompt, status, job_id, created_at, queued_at, last_event_at)
         SELECT gen_random_uuid(), 'agent_api', 'user-1', 'x', 'queued', gen_random_uuid(), now(), now(), now()
           FROM generate_series(1, {RUNS}) RETURNING 1"
    );
    assert_eq!(system.sql(&sql, "").await.len() as i64, RUNS);
    ok(&system, &["queue", "pause"]);
    system.add_worker().await;
    let all_back = || async { system.length("pending") as i64 == RUNS };
    eventually(HEALED, all_back).await;
    let flush = "redis.call('FLUSHALL'); redis.call('SET', 'jobs:paused', '1')";
    system.redis.cli(&["EVAL", flush, "0"]);
    assert_eq!(system.length("pending"), 0);
    eventually(HEALED, all_back).await;
    assert_eq!(findings(&system), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_shows_the_queue_and_says_nothing_of_it_while_redis_is_away() {
    let mut system = Setup::workers(1).start().await;
    ok(&system, &["queue", "pause"]);
    system.begin(&script(&[message("x")])).await;
    let urls = [
        format!("{}/readyz", system.base),
        format!("http://127.0.0.1:{}/readyz", system.admin[0]),
    ];
    let shown = |url: String| {
        let client = system.client.clone();
        async move {
            client
                .get(url)
                .send()
                .await
                .unwrap()
                .json::<Value>()
                .await
                .unwrap()
        }
    };
    for url in urls.clone() {
        eventually(SOON, || async {
            let queue = shown(url.clone()).await["queue"].clone();
            queue["paused"] == true && queue["pending"] == 1 && queue["oldest_pending_age_seconds"].is_f64()
        })
        .await;
    }
    system.redis.kill();
    for url in urls {
        eventually(SOON, || async { shown(url.clone()).await["queue"].is_null() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_run_store_the_queue_can_be_looked_at_and_the_rest_says_what_is_missing() {
    let system = Setup::workers(0).start().await;
    let bare = |args: &[&str]| {
        let mut command = Command::new(bin("agentctl"));
        command.env_clear().args(args).current_dir(std::env::temp_dir());
        command.env("REDIS_URL", system.redis.url()).output().unwrap()
    };
    let stats = bare(&["queue"]);
    assert_eq!(stats.status.code(), Some(0));
    assert!(out(&stats).contains("DATABASE_URL is not set"), "{}", out(&stats));
    for args in [&["queue", "doctor"][..], &["queue", "retry", "--all"]] {
        let refused = bare(args);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(4), "{error}");
        assert!(error.contains("DATABASE_URL"), "{error}");
    }
}

/// A server in cluster mode. Dropped = killed.
struct ClusterServer {
    server: std::process::Child,
    _dir: tempfile::TempDir,
}

impl ClusterServer {
    fn start(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, bus) = (port.to_string(), testkit::free_port().to_string());
        let server = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--cluster-port",
                &bus,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .args(["--cluster-enabled", "yes", "--logfile", "redis.log"])
            .args(["--dir", dir.path().to_str().unwrap()])
            .spawn()
            .unwrap();
        Self { server, _dir: dir }
    }
}

impl Drop for ClusterServer {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_comes_up_later_ends_programs_with_a_plain_prefix_with_64() {
    let system = Setup::workers(0).start().await;
    let port = testkit::free_port();
    let address = || format!("127.0.0.1:{}", testkit::free_port());
    let start = |name: &str| {
        testkit::Program::new(bin(name))
            .env("DATABASE_URL", &system.database_url)
            .env("REDIS_URL", format!("redis://127.0.0.1:{port}"))
            .env("JWT_SECRET", "s")
            .env("LLM_PRIMARY_PROVIDER", "scripted")
            .env("API_BIND_ADDR", address())
            .env("RUNTIME_BIND_ADDR", address())
            .env("WORKER_ADMIN_ADDR", address())
            .start()
    };
    let mut api = start("agent-api");
    let mut worker = start("agent-worker");
    api.wait_for_output("schema is current", SOON).await;
    worker.wait_for_output("worker started", SOON).await;
    let _cluster = ClusterServer::start(port);
    for process in [&mut api, &mut worker] {
        let code = process.wait(SOON).await.code();
        let words = format!("{}{}", process.stdout(), process.stderr());
        assert_eq!(code, Some(64), "{words}");
        assert!(words.contains("use {jobs} instead of jobs"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicting_server_without_persistence_is_a_warning_line_each_and_a_finding() {
    let mut system = Setup::workers(0).start().await;
    for (name, value) in [("maxmemory-policy", "allkeys-lru"), ("appendonly", "no")] {
        system.redis.cli(&["CONFIG", "SET", name, value]);
    }
    system.add_worker().await;
    system.restart_api().await;
    for process in [&mut system.workers[0], &mut system.api] {
        for words in ["allkeys-lru", "appendonly is off"] {
            process.wait_for_output(words, SOON).await;
        }
    }
    assert_eq!(findings(&system), ["server", "server"]);
}
