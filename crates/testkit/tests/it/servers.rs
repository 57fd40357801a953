//! Redis and Postgres: restart, isolation, clean-up.

use testkit::{Postgres, Redis};
use tokio_postgres::NoTls;

async fn query(url: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let session = tokio::spawn(connection);
    let messages = client.simple_query(sql).await?;
    drop(client);
    session.await.expect("no panic")?;
    let rows = messages.into_iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(rows.collect())
}

#[tokio::test]
async fn redis_keeps_its_data_over_kill_and_stop() {
    let mut redis = Redis::start().await;
    assert_eq!(redis.cli(&["LPUSH", "jobs", "a", "b"]), "2");
    let pid = redis.pid();
    redis.kill();
    redis.restart().await;
    assert_ne!(redis.pid(), pid);
    assert_eq!(redis.cli(&["LRANGE", "jobs", "0", "-1"]), "b\na");
    redis.stop();
    redis.restart().await;
    assert_eq!(redis.cli(&["LLEN", "jobs"]), "2");
    assert_eq!(
        redis.cli(&["CONFIG", "GET", "maxmemory-policy"]),
        "maxmemory-policy\nnoeviction"
    );
}

#[tokio::test]
async fn a_paused_redis_accepts_but_does_not_answer() {
    let mut redis = Redis::start().await;
    redis.pause();
    let port = redis.port().to_string();
    let mut ping = tokio::process::Command::new("redis-cli")
        .args(["-p", &port, "ping"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-cli");
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), ping.wait()).await;
    assert!(early.is_err(), "a stopped server answered");
    redis.unpause();
    assert!(ping.wait().await.expect("redis-cli").success());
}

#[tokio::test]
async fn every_database_is_fresh_and_its_own() {
    let postgres = Postgres::shared().await;
    let (first, second) = tokio::join!(postgres.database(), postgres.database());
    assert_ne!(first, second);
    query(&first, "CREATE TABLE only_here (id int)")
        .await
        .expect("create");
    assert!(query(&second, "SELECT * FROM only_here").await.is_err());
}

#[tokio::test]
async fn a_migrated_database_has_every_migration_and_is_its_own() {
    let postgres = Postgres::shared().await;
    let (first, second) = tokio::join!(postgres.migrated_database(), postgres.migrated_database());
    let files =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations")).expect("a directory");
    let names = files.map(|file| file.expect("readable").file_name().into_string().expect("UTF-8"));
    let mut versions: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(".up.sql")?.to_owned()))
        .collect();
    versions.sort();
    let applied = "SELECT version FROM runtime.schema_migrations WHERE length(checksum) = 64 ORDER BY 1";
    assert_eq!(query(&first, applied).await.expect("select"), versions);
    query(&first, "DELETE FROM runtime.schema_migrations")
        .await
        .expect("delete");
    assert_eq!(query(&second, applied).await.expect("select"), versions);
}

#[tokio::test]
async fn postgres_comes_back_on_its_port_with_committed_rows() {
    let mut postgres = Postgres::start().await;
    let url = postgres.database().await;
    query(&url, "CREATE TABLE t (id int); INSERT INTO t VALUES (7)")
        .await
        .expect("insert");
    postgres.stop();
    assert!(query(&url, "SELECT 1").await.is_err());
    postgres.restart().await;
    assert_eq!(query(&url, "SELECT id FROM t").await.expect("select"), ["7"]);
    postgres.kill();
    postgres.restart().await;
    assert_eq!(query(&url, "SELECT id FROM t").await.expect("select"), ["7"]);
}
