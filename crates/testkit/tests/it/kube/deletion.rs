//! What a deletion deletes.

use super::setup::{Cluster, JOBS, LIMIT, PODS, phase};
use serde_json::json;
use std::time::Duration;
use testkit::kube::Kind;

#[tokio::test]
async fn a_job_deleted_without_a_policy_leaves_its_pod_running_without_owner() {
    let cluster = Cluster::start().await;
    cluster.run("orphan", "sleep 30").await;
    cluster.pod_with("orphan", |pod| phase(pod) == "Running").await;
    let (code, _) = cluster.delete(&format!("{JOBS}/orphan"), &json!({})).await;
    assert_eq!(code, 200);
    testkit::eventually(LIMIT, || {
        std::future::ready(cluster.api.objects(Kind::Job).is_empty())
    })
    .await;
    let pod = cluster.pod_with("orphan", |_| true).await;
    assert_eq!(phase(&pod), "Running");
    assert!(pod["metadata"]["ownerReferences"].is_null());
}

#[tokio::test]
async fn background_deletion_frees_the_place_at_once_and_ends_the_pod_after_its_grace() {
    let cluster = Cluster::start().await;
    // Ignores TERM, and so does its child.
    cluster
        .run("bg", "trap '' TERM; echo up; while :; do sleep 1; done")
        .await;
    cluster.pod_with("bg", |pod| phase(pod) == "Running").await;
    let (code, answer) = cluster
        .delete(&format!("{JOBS}/bg"), &json!({"propagationPolicy": "Background"}))
        .await;
    assert_eq!((code, &answer["status"]), (200, &json!("Success")));
    assert_eq!(cluster.api.quota_used("count/jobs.batch"), "0");
    cluster.no_pods("bg").await;
    let stops = cluster.api.stops();
    assert_eq!(stops.len(), 1);
    assert!(stops[0].took >= Duration::from_secs(1), "{stops:?}");
}

#[tokio::test]
async fn while_a_job_is_being_deleted_its_name_is_taken_with_words_of_their_own() {
    let cluster = Cluster::start().await;
    cluster.run("fg", "trap '' TERM; while :; do sleep 1; done").await;
    cluster.pod_with("fg", |pod| phase(pod) == "Running").await;
    cluster
        .delete(&format!("{JOBS}/fg"), &json!({"propagationPolicy": "Foreground"}))
        .await;
    let (code, status) = cluster.post(JOBS, &super::setup::job("fg", "true")).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(
        status["message"],
        "object is being deleted: jobs.batch \"fg\" already exists"
    );
    testkit::eventually(LIMIT, || {
        std::future::ready(cluster.api.objects(Kind::Job).is_empty())
    })
    .await;
    assert!(
        cluster.api.pods_of("fg").is_empty(),
        "foreground: the pods went before"
    );
}

#[tokio::test]
async fn a_wrong_uid_deletes_nothing() {
    let cluster = Cluster::start().await;
    let job = cluster.run("uid", "sleep 30").await;
    let (code, status) = cluster
        .delete(
            &format!("{JOBS}/uid"),
            &json!({"propagationPolicy": "Background", "preconditions": {"uid": "other"}}),
        )
        .await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let uid = &job["metadata"]["uid"];
    let (code, _) = cluster
        .delete(
            &format!("{JOBS}/uid"),
            &json!({"propagationPolicy": "Background", "preconditions": {"uid": uid}}),
        )
        .await;
    assert_eq!(code, 200);
    let (code, status) = cluster.get(&format!("{JOBS}/uid")).await;
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
    assert_eq!(status["message"], "jobs.batch \"uid\" not found");
}

#[tokio::test]
async fn a_pod_deleted_by_hand_fails_its_job() {
    let cluster = Cluster::start().await;
    cluster.run("hand", "sleep 30").await;
    let pod = cluster.pod_with("hand", |pod| phase(pod) == "Running").await;
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let (code, answer) = cluster.delete(&format!("{PODS}/{name}"), &json!({})).await;
    assert_eq!((code, &answer["kind"]), (200, &json!("Pod")));
    cluster.job_with("hand", "Failed").await;
    cluster.no_pods("hand").await;
}
