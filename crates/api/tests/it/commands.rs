//! The commands that check or mend what is stored, as an operator calls them.

use runs::{AppendEvent, Db, EventWindow, NewRuntimeRun, RuntimeRuns};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use testkit::Postgres;

fn called(db_url: &str, dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-api"));
    command.env_clear().current_dir(dir).args(args);
    if !db_url.is_empty() {
        command.env("DATABASE_URL", db_url);
    }
    command.output().expect("the program runs")
}

/// Exit code, stdout, stderr.
fn said(db_url: &str, args: &[&str]) -> (i32, String, String) {
    let output = called(db_url, Path::new("/"), args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

async fn store() -> (String, RuntimeRuns) {
    let url = Postgres::shared().await.migrated_database().await;
    let db = Db::from_url(&url).unwrap();
    (
        url,
        RuntimeRuns::new(db, Arc::new(domain::SystemClock), Arc::new(domain::SystemIds)),
    )
}

async fn run_of_three(runs: &RuntimeRuns) -> String {
    let id = runs.create(NewRuntimeRun::default()).await.unwrap().0.id;
    for n in 0..2 {
        let event = AppendEvent {
            event_type: "note".to_owned(),
            payload: json!({"n": n}),
            idempotency_key: None,
            expected_previous_seq: None,
        };
        runs.append(id, event, EventWindow::default()).await.unwrap();
    }
    id.to_string()
}

async fn sql(url: &str, text: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(text).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

#[test]
fn histories_are_checked_from_any_directory_and_from_a_file() {
    let (code, out, _) = said("", &["history", "check"]);
    assert_eq!((code, out.as_str()), (0, "history check passed (3 fixtures)"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let own = called("", &root, &["history", "check"]);
    assert!(own.status.success(), "{own:?}");
    let file = root.join("fixtures/history_compat/run_workflow_histories_v1.json");
    let (code, _, err) = said("", &["history", "check", "--file", "/nonexistent.json"]);
    assert!(code == 1 && err.contains("/nonexistent.json"), "{err}");
    let text = std::fs::read_to_string(file).unwrap();
    let dir = std::env::temp_dir().join(format!("history-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let changed = dir.join("changed.json");
    std::fs::write(&changed, text.replacen("tool_timeout", "tool_timeouT", 1)).unwrap();
    let (code, out, _) = said("", &["history", "check", "--file", changed.to_str().unwrap()]);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(code, 1);
    let named: Vec<&str> = out.lines().collect();
    assert_eq!((named.len(), named[0]), (3, "history check failed:"), "{out}");
    assert!(
        named[1].starts_with("  - fixture cancel_then_failure field trajectory_hash: "),
        "{out}"
    );
    assert!(
        named[2].starts_with("  - fixture cancel_then_failure field replay_hash: "),
        "{out}"
    );
}

#[tokio::test]
async fn the_event_chain_is_verified_and_a_broken_one_is_named() {
    let (url, runs) = store().await;
    let (first, second) = (run_of_three(&runs).await, run_of_three(&runs).await);
    let (code, out, _) = said(&url, &["events", "verify", "--all"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "event chain verified: 2 runs, 6 events")
    );
    let (code, out, _) = said(&url, &["events", "verify", "--run-id", &first]);
    assert_eq!(
        (code, out.as_str()),
        (0, "event chain verified: 1 runs, 3 events")
    );
    let tamper = format!(
        "ALTER TABLE runtime.run_events DISABLE TRIGGER USER;
         UPDATE runtime.run_events SET payload = '{{\"n\":7}}' WHERE run_id = '{second}' AND seq = 2"
    );
    sql(&url, &tamper).await;
    let broken = format!("event chain broken: run={second} seq=2 event hash differs");
    for args in [
        vec!["events", "verify", "--all"],
        vec!["events", "verify", "--run-id", &second],
    ] {
        let (code, out, _) = said(&url, &args);
        assert_eq!((code, &out), (1, &broken), "{args:?}");
    }
    assert_eq!(said(&url, &["events", "verify", "--run-id", &first]).0, 0);
    let nobody = uuid::Uuid::nil().to_string();
    let (code, _, err) = said(&url, &["events", "verify", "--run-id", &nobody]);
    assert_eq!((code, err), (1, format!("no such run: {nobody}")));
    assert_eq!(said(&url, &["events", "verify"]).0, 64, "one run or all");
}

#[tokio::test]
async fn reprojection_tells_what_it_did_run_by_run() {
    let (url, runs) = store().await;
    let run = run_of_three(&runs).await;
    let summary = |repaired, dry_run, action, drift, watermark| {
        format!(
            "Reprojection summary:\n  total_runs: 1\n  processed_runs: 1\n  repaired_runs: {repaired}\n  \
             dry_run: {dry_run}\n  run={run} action={action} drift={drift} watermark={watermark}/3"
        )
    };
    let called = |args: &[&str]| {
        let args: Vec<&str> = [&["reproject"], args].concat();
        let (code, out, err) = said(&url, &args);
        assert_eq!(code, 0, "{out} {err}");
        out
    };
    assert_eq!(called(&["--reconcile"]), summary(0, false, "in_sync", false, 3));
    sql(
        &url,
        "DELETE FROM runtime.projection_checkpoints; DELETE FROM runtime.run_summaries",
    )
    .await;
    assert_eq!(
        called(&["--dry-run"]),
        summary(0, true, "dry_run_reproject", true, 0)
    );
    let dry = called(&["--reconcile", "--dry-run"]);
    assert_eq!(dry, summary(0, true, "dry_run_detected_drift", true, 0));
    let left = called(&["--reconcile", "--no-repair"]);
    assert_eq!(left, summary(0, false, "drift_detected_no_repair", true, 0));
    assert_eq!(
        called(&["--reconcile", "--run-id", &run]),
        summary(1, false, "repaired", false, 3)
    );
    assert_eq!(
        called(&["--since", "2026-01-01T00:00:00Z"]),
        summary(1, false, "reprojected", false, 3)
    );
    let none = called(&["--until", "2026-01-01T00:00:00Z"]);
    assert_eq!(
        none,
        "Reprojection summary:\n  total_runs: 0\n  processed_runs: 0\n  repaired_runs: 0\n  dry_run: false"
    );
    let (code, _, err) = said(&url, &["reproject", "--since", "yesterday"]);
    assert_eq!(
        (code, err.as_str()),
        (1, "invalid since: yesterday (expected ISO-8601 UTC)")
    );
    sql(&url, "DROP TABLE runtime.projection_drift CASCADE").await;
    let (code, _, err) = said(&url, &["reproject"]);
    assert_eq!(code, 1, "{err}");
    let shown = runs.summary(run.parse().unwrap()).await.unwrap();
    assert_eq!(shown["event_count"], 3);
}

#[tokio::test]
async fn a_run_that_cannot_be_rebuilt_fails_the_command_and_not_the_others() {
    let (url, runs) = store().await;
    let (first, second) = (run_of_three(&runs).await, run_of_three(&runs).await);
    let block = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.run_id = '{first}' THEN RAISE EXCEPTION 'refused for a test'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON runtime.run_summaries FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    sql(&url, &block).await;
    let before = runs.summary(first.parse().unwrap()).await.unwrap();
    let (code, out, _) = said(&url, &["reproject"]);
    assert_eq!(code, 1);
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[5].starts_with(&format!("  run={first} action=reproject_failed:")),
        "{out}"
    );
    assert!(lines[5].contains("refused for a test"), "{out}");
    assert_eq!(
        lines[6],
        format!("  run={second} action=reprojected drift=false watermark=3/3")
    );
    assert_eq!(lines[3], "  repaired_runs: 1");
    let after: Value = runs.summary(first.parse().unwrap()).await.unwrap();
    assert_eq!(after, before, "a failed repair changes nothing");
}

#[tokio::test]
async fn migrate_makes_the_database_and_names_what_is_wrong() {
    let url = Postgres::shared().await.url("made_by_the_command");
    let (code, out, err) = said(&url, &["migrate", "--create-database"]);
    assert_eq!(code, 0, "{out} {err}");
    let (code, out, _) = said(&url, &["migrate"]);
    assert!(code == 0 && out.contains("0 of "), "again: no change: {out}");
    sql(&url, "DROP TABLE runtime.worker_events").await;
    let (code, _, err) = said(&url, &["migrate"]);
    assert_eq!(
        (code, err.as_str()),
        (
            1,
            "required runtime table missing after migrations: worker_events"
        )
    );
    sql(
        &url,
        "UPDATE runtime.schema_migrations SET checksum = 'x' WHERE version = '0001_platform'",
    )
    .await;
    let (code, _, err) = said(&url, &["migrate"]);
    assert_eq!(
        (code, err.as_str()),
        (1, "migration checksum mismatch for 0001_platform")
    );
}
