//! The smoke test as a command, in every way of authentication, and when steps fail.

use crate::service::{JWT_SECRET, SECRET, SOON, Service};
use serde_json::json;
use testkit::{Postgres, Process, Program, Redis, free_port, jwt};

async fn smoke(url: &str, settings: &[(&str, &str)]) -> (i32, Process) {
    let program =
        Program::new(env!("CARGO_BIN_EXE_openagents-runtime-service")).envs(settings.iter().copied());
    let mut process = program.arg("smoke").arg("--base-url").arg(url).start();
    let code = process.wait(SOON).await.code().unwrap();
    (code, process)
}

const ALL: &str = "ok   healthz\nok   readyz\nok   create\nok   append\nok   get\nok   finish\n";

#[tokio::test]
async fn all_steps_pass_with_a_signature_a_bearer_or_on_open_loopback() {
    let redis = Redis::start().await;
    let db_url = Postgres::shared().await.migrated_database().await;
    let signed = Service::signed(&redis, &db_url).await;
    let bearer = Service::on(&db_url, &[("JWT_SECRET", JWT_SECRET)]).await;
    let open = Service::on(&db_url, &[]).await;
    let token = jwt(JWT_SECRET, "smoke", json!({"scope": "internal"}));
    for (service, settings) in [
        (
            &signed,
            vec![
                ("RUNTIME_SIGNATURE_SECRET", SECRET),
                ("SMOKE_BEARER_TOKEN", "unused"),
            ],
        ),
        (&bearer, vec![("SMOKE_BEARER_TOKEN", token.as_str())]),
        (&open, vec![]),
    ] {
        let (code, process) = smoke(&service.base, &settings).await;
        assert_eq!((code, process.stdout().as_str()), (0, ALL));
    }
    let rows = runs_of(&db_url).await;
    assert_eq!(rows, ["completed smoke", "completed smoke", "completed smoke"]);
}

/// Status and metadata source of every run.
async fn runs_of(db_url: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(db_url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let session = tokio::spawn(connection);
    let rows = client
        .query("SELECT status, runtime_metadata->>'source' FROM agent_runs", &[])
        .await
        .unwrap();
    drop(client);
    session.await.unwrap().unwrap();
    rows.iter()
        .map(|row| format!("{} {}", row.get::<_, String>(0), row.get::<_, String>(1)))
        .collect()
}

#[tokio::test]
async fn a_failed_step_is_told_and_the_exit_code_is_1() {
    let frozen = Service::start(&[("RUNTIME_AUTHORITY_WRITE_MODE", "read_only")]).await;
    let (code, process) = smoke(&frozen.base, &[]).await;
    let out = process.stdout();
    assert_eq!(code, 1);
    assert!(
        out.starts_with("ok   healthz\nok   readyz\nFAIL create: status 503, expected 201: "),
        "{out}"
    );
    assert_eq!(out.lines().count(), 3, "{out}");
    let (code, process) = smoke(&format!("http://127.0.0.1:{}", free_port()), &[]).await;
    assert_eq!(code, 1);
    assert!(
        process.stdout().starts_with("FAIL healthz: no answer: "),
        "{}",
        process.stdout()
    );
}
