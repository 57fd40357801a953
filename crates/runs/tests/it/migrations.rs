use crate::support::connect;
use futures::future::join_all;
use runs::{Db, DbOptions, MIGRATIONS, MigrationError};
use std::collections::BTreeSet;
use testkit::Postgres;

#[test]
fn the_list_is_the_folder() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.rsplit('.').next() == Some("sql"))
        .collect();
    let list: BTreeSet<String> = MIGRATIONS
        .iter()
        .flat_map(|migration| {
            [
                format!("{}.up.sql", migration.version),
                format!("{}.down.sql", migration.version),
            ]
        })
        .collect();
    assert_eq!(files, list);
    assert!(MIGRATIONS.is_sorted_by_key(|migration| migration.version));
}

#[tokio::test]
async fn up_down_up_leads_to_the_same_schema() {
    let db = Db::from_url(&Postgres::shared().await.database().await).unwrap();
    assert!(!db.schema_is_current().await.unwrap());
    let first = db.migrate().await.unwrap();
    assert_eq!(first.applied.len(), MIGRATIONS.len());
    assert!(db.schema_is_current().await.unwrap());
    assert!(
        db.migrate().await.unwrap().applied.is_empty(),
        "again changes nothing"
    );
    runs::db::migrate::down(&db, MIGRATIONS).await.unwrap();
    assert!(!db.schema_is_current().await.unwrap());
    assert_eq!(db.migrate().await.unwrap(), first);
}

#[tokio::test]
async fn ten_replicas_may_migrate_at_once() {
    let url = Postgres::shared().await.database().await;
    let migrate = |_| {
        let db = Db::from_url(&url).unwrap();
        async move { db.migrate().await.unwrap().applied.len() }
    };
    let applied: Vec<usize> = join_all((0..10).map(migrate)).await;
    assert_eq!(applied.iter().sum::<usize>(), MIGRATIONS.len(), "{applied:?}");
}

/// What `scripts/ci/run-migrations.sh` says and its exit code.
fn script(url: &str) -> (String, Option<i32>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/ci/run-migrations.sh");
    let ended = std::process::Command::new("bash")
        .arg(path)
        .env("DATABASE_URL", url)
        .env_remove("MIGRATION_DIR")
        .env_remove("SERVICE")
        .output()
        .unwrap();
    let mut said = String::from_utf8(ended.stdout).unwrap();
    said.push_str(&String::from_utf8(ended.stderr).unwrap());
    (said, ended.status.code())
}

#[tokio::test]
async fn the_script_and_the_programs_make_the_same_schema() {
    let url = Postgres::shared().await.database().await;
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(|| script(&url));
        [script(&url), other.join().unwrap()]
    });
    for (said, code) in &both {
        assert_eq!(*code, Some(0), "{said}");
    }
    let applied = both
        .iter()
        .flat_map(|(said, _)| said.lines())
        .filter(|line| line.starts_with("applying "));
    assert_eq!(applied.count(), MIGRATIONS.len(), "each file once: {both:?}");
    let db = Db::from_url(&url).unwrap();
    assert!(db.schema_is_current().await.unwrap());
    assert!(db.migrate().await.unwrap().applied.is_empty());
    let other = Postgres::shared().await.migrated_database().await;
    let (said, code) = script(&other);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("applying"), "{said}");
    let psql = connect(&other).await;
    psql.batch_execute("UPDATE runtime.schema_migrations SET checksum = 'x' WHERE version = '0002_runtime'")
        .await
        .unwrap();
    let (said, code) = script(&other);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("migration checksum mismatch for 0002_runtime"),
        "{said}"
    );
}

#[tokio::test]
async fn a_changed_file_and_a_missing_table_are_named() {
    let url = Postgres::shared().await.migrated_database().await;
    let db = Db::from_url(&url).unwrap();
    let psql = connect(&url).await;
    psql.batch_execute("DROP TABLE runtime.run_frames").await.unwrap();
    let missing = db.migrate().await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        "required runtime table missing after migrations: run_frames"
    );
    psql.batch_execute("UPDATE runtime.schema_migrations SET checksum = 'x' WHERE version = '0002_runtime'")
        .await
        .unwrap();
    let changed = db.migrate().await.unwrap_err();
    assert!(matches!(changed, MigrationError::Checksum(_)));
    assert_eq!(
        changed.to_string(),
        "migration checksum mismatch for 0002_runtime"
    );
    assert!(!db.schema_is_current().await.unwrap());
}

#[tokio::test]
async fn a_missing_database_can_be_made() {
    let options = DbOptions::of_url(&Postgres::shared().await.url("made_by_us"));
    assert!(Db::connect(&options).unwrap().ping().await.is_err());
    assert!(Db::create_database(&options).await.unwrap());
    assert!(!Db::create_database(&options).await.unwrap());
    Db::connect(&options).unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn stored_events_cannot_be_changed() {
    let store = crate::support::store().await;
    store.created(false).await;
    let psql = store.psql().await;
    for sql in [
        "UPDATE runtime.run_events SET payload = '{}'",
        "DELETE FROM runtime.run_events",
        "TRUNCATE runtime.run_events",
    ] {
        let refused = psql.batch_execute(sql).await.unwrap_err();
        assert_eq!(
            refused.as_db_error().unwrap().message(),
            "run_events is append-only",
            "{sql}"
        );
    }
}

/// Columns of a table or view, in their order.
async fn columns(psql: &tokio_postgres::Client, schema: &str, table: &str) -> Vec<String> {
    let sql = "SELECT column_name::text FROM information_schema.columns
        WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position";
    let rows = psql.query(sql, &[&schema, &table]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn tables_of_the_runtime_schema_have_the_published_columns_and_keys() {
    let psql = connect(&Postgres::shared().await.migrated_database().await).await;
    for (table, expected) in [
        (
            "run_events",
            "run_id seq event_type payload idempotency_key recorded_at prev_hash event_hash",
        ),
        (
            "projection_checkpoints",
            "topic last_seq last_event_type updated_at",
        ),
        (
            "run_summaries",
            "run_id status last_seq event_count projection_hash updated_at",
        ),
        (
            "projection_drift",
            "topic expected_next_seq last_seen_seq incoming_seq reason detected_at",
        ),
        ("schema_migrations", "version checksum applied_at"),
        (
            "runs",
            "run_id status worker_id thread_id latest_seq created_at updated_at",
        ),
    ] {
        assert_eq!(
            columns(&psql, "runtime", table).await.join(" "),
            expected,
            "{table}"
        );
    }
    let run = columns(&psql, "public", "agent_runs").await;
    for name in [
        "origin",
        "worker_id",
        "thread_id",
        "owner_guest_scope",
        "event_head_hash",
        "cancel_requested_at",
    ] {
        assert!(run.iter().any(|column| column == name), "{name}");
    }
    let keys = "SELECT string_agg(pg_get_constraintdef(oid), '; ' ORDER BY contype) FROM pg_constraint
        WHERE conrelid = 'runtime.run_events'::regclass AND contype IN ('p', 'u')";
    let keys: String = psql.query_one(keys, &[]).await.unwrap().get(0);
    assert_eq!(
        keys,
        "PRIMARY KEY (run_id, seq); UNIQUE (run_id, idempotency_key)"
    );
}
