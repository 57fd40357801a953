//! `agent-worker check kubernetes`: a line for each thing a tool needs, and which of them is missing.

use crate::setup::{Bed, LIMIT, shell};
use testkit::{Program, bin};

/// Exit code and what it says.
async fn check(bed: &Bed, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut program = Program::new(bin("agent-worker"))
        .arg("check")
        .arg("kubernetes")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none")
        .env("REDIS_URL", "redis://127.0.0.1:9")
        .env("S3_ENDPOINT", bed.s3.endpoint())
        .env("S3_ACCESS_KEY", bed.s3.access_key())
        .env("S3_SECRET_KEY", bed.s3.secret_key())
        .env("S3_WORKSPACE_BUCKET", bed.s3.bucket())
        .env("TOOL_EXECUTOR", "kubernetes")
        .env("K8S_IN_CLUSTER", "false")
        .env("KUBECONFIG", bed.api.kubeconfig().display().to_string());
    for (name, value) in settings {
        program = program.env(name, *value);
    }
    let mut process = program.start();
    let status = process.wait(LIMIT).await;
    (status.code(), format!("{}{}", process.stdout(), process.stderr()))
}

/// Fails, with one line that is marked and holds these words.
async fn fails(bed: &Bed, settings: &[(&str, &str)], words: &[&str]) {
    let (code, said) = check(bed, settings).await;
    assert_eq!(code, Some(1), "{said}");
    let mut failed = said.lines().filter(|line| line.contains("FAILED"));
    assert!(
        failed.any(|line| words.iter().all(|word| line.contains(word))),
        "no failed line with {words:?}:\n{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_fine_on_a_cluster_with_our_manifests() {
    let bed = Bed::start().await;
    let (code, said) = check(&bed, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("FAILED"), "{said}");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_is_named() {
    let bed = Bed::start().await;
    for (verb, resource) in [
        ("create", "jobs"),
        ("get", "jobs"),
        ("list", "jobs"),
        ("watch", "jobs"),
        ("delete", "jobs"),
        ("get", "pods"),
        ("list", "pods"),
        ("watch", "pods"),
        ("delete", "pods"),
        ("create", "pods"),
        ("get", "pods/log"),
        ("list", "events"),
        ("list", "resourcequotas"),
        ("create", "secrets"),
        ("delete", "secrets"),
    ] {
        bed.api.revoke(verb, resource);
        fails(&bed, &[], &[verb, resource]).await;
        bed.api.restore_rights();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_quota_a_refused_pod_a_store_that_is_away_and_a_wrong_clock_are_told() {
    let mut bed = Bed::start().await;
    bed.api.set_skew_seconds(600);
    fails(&bed, &[], &["clock"]).await;
    bed.api.set_skew_seconds(0);
    bed.api
        .set_violation(Some("unrestricted capabilities (a webhook added NET_RAW)"));
    fails(&bed, &[], &["NET_RAW"]).await;
    bed.api.set_violation(None);
    let missing = [("TOOL_IMAGE_PYTHON", "missing/python:1")];
    fails(&bed, &missing, &["missing/python:1", "ErrImagePull"]).await;
    bed.is_empty().await;
    bed.api.set_quota(&[]);
    fails(&bed, &[], &["quota"]).await;
    bed.s3.stop().await;
    fails(&bed, &[], &["store"]).await;
    bed.api.go_away().await;
    let (code, said) = check(&bed, &[]).await;
    assert_eq!(code, Some(1), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_that_went_since_the_settings_were_read_are_missed_at_the_start_and_not_by_each_pod() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--tool-ca-file", "/nowhere/authorities.pem"]).await;
    let told = worker.sandbox.describe();
    assert!(
        told.starts_with("no sandbox: TOOL_CA_FILE /nowhere/authorities.pem: "),
        "{told}"
    );
    let failed = worker.run(&shell("true")).await.unwrap_err().to_string();
    assert!(
        failed.contains("TOOL_CA_FILE /nowhere/authorities.pem"),
        "{failed}"
    );
    bed.is_empty().await;
}
