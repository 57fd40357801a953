//! The program: exit codes, start, readiness, shutdown.

use crate::harness::{Api, client, program, read};
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::{Postgres, Program, Redis, Sse, eventually, free_port};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(20);

fn bare() -> Program {
    Program::new(env!("CARGO_BIN_EXE_agent-api"))
}

#[tokio::test]
async fn missing_settings_end_the_start_with_64_and_one_line() {
    let mut process = bare().start();
    assert_eq!(process.wait(SOON).await.code(), Some(64));
    let expected = "missing required settings: DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD), \
        REDIS_URL (or DRAGONFLY_HOST), JWT_SECRET (or JWT_JWKS_URL)\n";
    assert_eq!(process.stderr(), expected);
    for arg in ["--help", "--version"] {
        assert_eq!(bare().arg(arg).start().wait(SOON).await.code(), Some(0), "{arg}");
    }
}

#[tokio::test]
async fn a_taken_address_or_an_absent_database_ends_the_start_with_69() {
    let db_url = Postgres::shared().await.migrated_database().await;
    let redis = Redis::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let quick = [("STARTUP_TIMEOUT_SECONDS", "1")];
    for ports in [(port, free_port()), (free_port(), port)] {
        let mut process = program(&db_url, &redis.url(), ports, &quick).start();
        assert_eq!(process.wait(SOON).await.code(), Some(69));
    }
    let nowhere = format!("postgres://u:p@127.0.0.1:{}/d", free_port());
    let ports = (free_port(), free_port());
    let mut process = program(&nowhere, &redis.url(), ports, &quick).start();
    assert_eq!(process.wait(SOON).await.code(), Some(69));
}

#[tokio::test]
async fn an_empty_database_is_migrated_at_start_unless_told_not_to() {
    let db_url = Postgres::shared().await.database().await;
    let redis = Redis::start().await;
    let ports = (free_port(), free_port());
    let manual = [("DB_AUTO_MIGRATE", "false")];
    let mut process = program(&db_url, &redis.url(), ports, &manual).start();
    assert_eq!(process.wait(SOON).await.code(), Some(69));
    let migrate = || bare().arg("migrate").env("DATABASE_URL", db_url.clone()).start();
    let (mut one, mut two) = (migrate(), migrate());
    assert_eq!(one.wait(SOON).await.code(), Some(0), "{}", one.stderr());
    assert_eq!(two.wait(SOON).await.code(), Some(0), "{}", two.stderr());
    Api::on(db_url, redis, &manual).await.create("u").await;
}

#[tokio::test]
async fn without_postgres_the_process_lives_answers_503_and_recovers() {
    let mut postgres = Postgres::start().await;
    let db_url = postgres.migrated_database().await;
    let api = Api::on(db_url, Redis::start().await, &[]).await;
    postgres.stop();
    let (status, answer) = api.execute("u", json!({"action": "create", "prompt": "x"})).await;
    assert_eq!((status, &answer["code"]), (503, &json!("unavailable")));
    assert_eq!(answer["detail"], "Service temporarily unavailable");
    eventually(SOON, || async {
        let (status, body) = read(api.get("u", "/ready").send().await.unwrap()).await;
        status == 503 && body["status"] == "not_ready" && body["checks"]["postgres"] == "error"
    })
    .await;
    assert_eq!(api.get("u", "/health").send().await.unwrap().status(), 200);
    postgres.restart().await;
    eventually(SOON, || async {
        api.get("u", "/ready").send().await.unwrap().status() == 200
    })
    .await;
    api.create("u").await;
}

#[tokio::test]
async fn redis_away_from_the_start_means_not_ready_and_nothing_else() {
    let db_url = Postgres::shared().await.migrated_database().await;
    let ports = (free_port(), free_port());
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    let _process = program(&db_url, &nowhere, ports, &[]).start();
    let url = format!("http://127.0.0.1:{}", ports.0);
    let body = json!({"action": "create", "prompt": "x", "auto_start": true}).to_string();
    eventually(SOON, || async {
        let request = client()
            .post(format!("{url}/agent/execute"))
            .bearer_auth(Api::token("u"));
        let answer = request.body(body.clone()).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let (status, body) = read(client().get(format!("{url}/readyz")).send().await.unwrap()).await;
    assert_eq!((status, &body["checks"]["redis"]), (503, &json!("error")));
    assert_eq!(body["checks"]["model"], "not_configured");
}

#[tokio::test]
async fn health_bodies_are_the_documented_ones() {
    let api = Api::start_with(&[("LLM_PRIMARY_PROVIDER", "scripted")]).await;
    let body = async |path: &str| {
        read(client().get(format!("{}{path}", api.base)).send().await.unwrap())
            .await
            .1
    };
    assert_eq!(
        body("/health").await,
        json!({"status": "healthy", "version": "1.0.0", "service": "agent-api"})
    );
    assert_eq!(body("/healthz").await, json!({"status": "ok"}));
    let checks = json!({"postgres": "ok", "redis": "ok", "s3": "not_configured", "model": "ok"});
    let queue = json!({"oldest_pending_age_seconds": null, "pending": 0, "orphans": 0, "paused": false});
    assert_eq!(body("/ready").await, json!({"status": "ready", "checks": checks}));
    assert_eq!(
        body("/readyz").await,
        json!({"status": "ready", "checks": checks, "queue": queue})
    );
    let text = client()
        .get(format!("{}/metrics", api.base))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.contains("agent_http_requests_total{"), "{text}");
}

#[tokio::test]
async fn sigterm_ends_streams_with_disconnected_and_the_process_with_0() {
    let mut api = Api::start().await;
    let run = api.created_and_started("u").await;
    let mut stream = Sse::connect(&api.stream_url(run, "?tail=0"), Some(&Api::token("u")), None).await;
    assert_eq!(stream.next(SOON).await.unwrap().json()["type"], "connected");
    let begun = Instant::now();
    api.process.term();
    let frame = stream.next(SOON).await.unwrap();
    assert_eq!(
        (frame.id, frame.json()),
        (None, json!({"type": "disconnected", "run_id": run}))
    );
    assert_eq!(stream.next(SOON).await, None);
    assert_eq!(api.process.wait(SOON).await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
