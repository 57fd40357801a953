//! Frozen writes.

use crate::service::{SECRET, SOON, Service, claims, program, read, refusal, signed};
use reqwest::Method;
use serde_json::json;
use testkit::{Redis, free_port};
use uuid::Uuid;

#[tokio::test]
async fn a_frozen_authority_refuses_every_post_and_reads_on() {
    let active = Service::start(&[]).await;
    let run = active.run(&json!({})).await;
    for mode in ["shadow_only", "read_only"] {
        let frozen = Service::on(&active.db_url, &[("RUNTIME_AUTHORITY_WRITE_MODE", mode)]).await;
        let message = format!("runtime authority writes are disabled in mode {mode}");
        for path in [
            "/runs",
            &format!("/runs/{run}/events"),
            "/runs/nonsense/events",
            "/workers",
            "/nowhere",
        ] {
            let request = frozen.request(Method::POST, &format!("/internal/v1{path}"));
            let long = "x".repeat(3_000_000);
            let answer = read(request.body(long)).await;
            assert_eq!(answer, (503, refusal("write_path_frozen", &message)), "{path}");
        }
        assert_eq!(read(frozen.get(&format!("/runs/{run}"))).await.0, 200);
        let (_, health) = read(frozen.request(Method::GET, "/healthz")).await;
        assert_eq!(
            (
                &health["authority_write_mode"],
                &health["authority_writer_active"]
            ),
            (&json!(mode), &json!(false))
        );
        let (status, ready) = read(frozen.request(Method::GET, "/readyz")).await;
        assert_eq!((status, &ready["authority_writer_active"]), (200, &json!(false)));
    }
}

#[tokio::test]
async fn authentication_comes_before_the_write_mode() {
    let redis = Redis::start().await;
    let url = redis.url();
    let frozen = Service::start(&[
        ("RUNTIME_AUTHORITY_WRITE_MODE", "read_only"),
        ("RUNTIME_SIGNATURE_SECRET", SECRET),
        ("REDIS_URL", &url),
    ])
    .await;
    let body = json!({"run_id": Uuid::nil()});
    assert_eq!(read(frozen.post("/runs", &body)).await.0, 401);
    assert_eq!(
        read(signed(frozen.post("/runs", &body), &claims(&json!({}))))
            .await
            .0,
        403
    );
    let (status, answer) = read(signed(frozen.post("/runs", &json!({})), &claims(&json!({})))).await;
    assert_eq!((status, &answer["error"]), (503, &json!("write_path_frozen")));
    let long = signed(
        frozen.request(Method::POST, "/internal/v1/runs"),
        &claims(&json!({})),
    );
    assert_eq!(
        read(long.body("x".repeat(3_000_000))).await.1["error"],
        "write_path_frozen"
    );
}

#[tokio::test]
async fn wrong_settings_are_named_and_end_the_start_with_64() {
    let db = ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d");
    let mut process = program(free_port(), &[db, ("RUNTIME_AUTHORITY_WRITE_MODE", "maybe")]).start();
    assert_eq!(process.wait(SOON).await.code(), Some(64));
    assert!(
        process
            .stderr()
            .contains("invalid RUNTIME_AUTHORITY_WRITE_MODE: maybe")
    );
    let mut process = program(free_port(), &[db])
        .env("RUNTIME_BIND_ADDR", "nonsense")
        .start();
    assert_eq!(process.wait(SOON).await.code(), Some(64));
    assert!(process.stderr().contains("invalid RUNTIME_BIND_ADDR: "));
    let mut process = program(free_port(), &[]).start();
    assert_eq!(process.wait(SOON).await.code(), Some(64));
    assert!(
        process
            .stderr()
            .contains("missing required settings: DATABASE_URL")
    );
}
