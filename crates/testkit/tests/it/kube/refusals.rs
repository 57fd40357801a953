//! What the server refuses, and in which words.

use super::setup::{Cluster, JOBS, PODS, job, phase};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::kube::{Fault, Kind, On, Status};

#[tokio::test]
async fn a_full_quota_refuses_and_finished_jobs_count() {
    let cluster = Cluster::start().await;
    cluster
        .api
        .set_quota(&[("count/jobs.batch", "2"), ("requests.cpu", "25")]);
    cluster.run("a", "true").await;
    cluster.job_with("a", "Complete").await;
    cluster.run("b", "sleep 30").await;
    let (code, status) = cluster.post(JOBS, &job("c", "true")).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        status["message"],
        "jobs.batch \"c\" is forbidden: exceeded quota: agent-tool-jobs-quota, requested: count/jobs.batch=1, used: \
         count/jobs.batch=2, limited: count/jobs.batch=2"
    );
    // Quota is asked before the name.
    let (code, _) = cluster.post(JOBS, &job("a", "true")).await;
    assert_eq!(code, 403);
    cluster
        .delete(&format!("{JOBS}/a"), &json!({"propagationPolicy": "Background"}))
        .await;
    let (code, status) = cluster.post(JOBS, &job("b", "true")).await;
    assert_eq!(code, 409);
    assert_eq!(status["message"], "jobs.batch \"b\" already exists");
    assert_eq!(cluster.api.peak_jobs(), 2);
}

#[tokio::test]
async fn sixty_creates_at_once_against_fifty_places_make_fifty() {
    let cluster = Cluster::start().await;
    // No pod: only the count is asked.
    cluster.api.set_room(false);
    let names: Vec<String> = (0..60).map(|n| format!("many-{n}")).collect();
    let bodies: Vec<Value> = names.iter().map(|name| job(name, "true")).collect();
    let all = bodies.iter().map(|body| cluster.post(JOBS, body));
    let answers = futures::future::join_all(all).await;
    let count = |wanted: u16| answers.iter().filter(|(code, _)| *code == wanted).count();
    assert_eq!((count(201), count(403)), (50, 10));
    assert_eq!(cluster.api.quota_used("count/jobs.batch"), "50");
}

#[tokio::test]
async fn requests_beyond_the_quota_leave_a_job_without_a_pod() {
    let cluster = Cluster::start().await;
    cluster.api.set_quota(&[("requests.cpu", "150m")]);
    cluster.run("first", "sleep 30").await;
    cluster.pod_with("first", |pod| phase(pod) == "Running").await;
    cluster.run("second", "sleep 30").await;
    let event = testkit::eventually_some(Duration::from_secs(5), || {
        let events = cluster.api.objects(Kind::Event).into_iter();
        std::future::ready(events.into_iter().find(|event| event["reason"] == "FailedCreate"))
    });
    let message = event.await.expect("an event")["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        message.ends_with(
            "exceeded quota: agent-tool-jobs-quota, requested: requests.cpu=100m, used: requests.cpu=100m, limited: \
             requests.cpu=150m"
        ),
        "{message}"
    );
    assert!(cluster.api.pods_of("second").is_empty());
    cluster
        .delete(
            &format!("{JOBS}/first"),
            &json!({"propagationPolicy": "Background"}),
        )
        .await;
    cluster.pod_with("second", |pod| phase(pod) == "Running").await;
}

#[tokio::test]
async fn a_field_that_does_not_exist_is_refused_when_asked_strictly() {
    let cluster = Cluster::start().await;
    let mut wrong = job("strict", "true");
    wrong["spec"]["template"]["spec"]["nodeNam"] = "x".into();
    let (code, status) = cluster
        .post(&format!("{JOBS}?fieldValidation=Strict"), &wrong)
        .await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "Job in version \"v1\" cannot be handled as a Job: strict decoding error: unknown field \
         \"spec.template.spec.nodeNam\""
    );
    let answer = cluster
        .ask(Method::POST, JOBS, Some(&wrong))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 201);
    assert_eq!(
        answer.headers()["warning"],
        "299 - \"unknown field \\\"spec.template.spec.nodeNam\\\"\""
    );
}

#[tokio::test]
async fn an_object_that_is_not_valid_is_answered_with_its_causes() {
    let cluster = Cluster::start().await;
    let mut wrong = job("Wrong", "true");
    wrong["spec"]["template"]["spec"]["restartPolicy"] = Value::Null;
    wrong["metadata"]["labels"]["run"] = "x".repeat(64).into();
    let (code, status) = cluster.post(JOBS, &wrong).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    let causes = status["details"]["causes"].as_array().expect("causes");
    let fields: Vec<&Value> = causes.iter().map(|cause| &cause["field"]).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "metadata.labels",
            "spec.template.spec.restartPolicy"
        ]
    );
}

#[tokio::test]
async fn a_pod_that_breaks_restricted_is_a_warning_on_the_job_and_a_refusal_of_the_pod() {
    let cluster = Cluster::start().await;
    let mut open = job("open", "true");
    open["spec"]["template"]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] =
        true.into();
    let path = format!("{JOBS}?dryRun=All");
    let answer = cluster
        .ask(Method::POST, &path, Some(&open))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 201);
    let warning = answer.headers()["warning"].to_str().expect("a text").to_owned();
    assert!(
        warning.starts_with(
            "299 - \"would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false"
        ),
        "{warning}"
    );
    assert!(
        cluster.api.objects(Kind::Job).is_empty(),
        "a dry run keeps nothing"
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": open["spec"]["template"]["spec"],
    });
    let (code, status) = cluster.post(PODS, &pod).await;
    assert_eq!(code, 403);
    let message = status["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": "),
        "{message}"
    );
}

#[tokio::test]
async fn the_workers_token_has_the_rights_of_the_role_and_no_other() {
    let mut cluster = Cluster::start().await;
    cluster.token = Some(cluster.api.token().to_owned());
    let secrets = "/api/v1/namespaces/agent-tools/secrets";
    let (code, status) = cluster.get(&format!("{secrets}/x")).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "secrets \"x\" is forbidden: User \"system:serviceaccount:agents:agent-api-sa\" cannot get resource \"secrets\" in API \
         group \"\" in the namespace \"agent-tools\""
    );
    for (path, wanted) in [
        (JOBS, 200),
        (PODS, 200),
        ("/api/v1/namespaces/agent-tools/events", 200),
        ("/api/v1/namespaces/agent-tools/resourcequotas", 200),
        ("/api/v1/namespaces/agent-tools/configmaps", 403),
        ("/api/v1/namespaces/default/pods", 403),
        ("/api/v1/pods", 403),
        ("/api/v1/nodes", 403),
        ("/apis/apps/v1/namespaces/agent-tools/deployments", 403),
        ("/version", 200),
    ] {
        assert_eq!(cluster.get(path).await.0, wanted, "{path}");
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": job("p", "true")["spec"]["template"]["spec"],
    });
    assert_eq!(cluster.post(&format!("{PODS}?dryRun=All"), &pod).await.0, 201);
    assert_eq!(
        cluster.post(PODS, &pod).await.0,
        403,
        "direct creation is for dry runs"
    );
    let review = |verb: &str, resource: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {
            "namespace": "agent-tools", "verb": verb, "group": if resource == "jobs" { "batch" } else { "" }, "resource": resource,
        }}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, resource, allowed) in [
        ("create", "jobs", true),
        ("patch", "jobs", false),
        ("get", "secrets", false),
    ] {
        let (code, answer) = cluster.post(reviews, &review(verb, resource)).await;
        assert_eq!(
            (code, &answer["status"]["allowed"]),
            (201, &json!(allowed)),
            "{verb} {resource}"
        );
    }
    cluster.api.revoke("create", "jobs");
    assert_eq!(cluster.post(JOBS, &job("x", "true")).await.0, 403);
    cluster.api.restore_rights();
    assert_eq!(cluster.post(JOBS, &job("x", "true")).await.0, 201);
    cluster.token = Some("other".to_owned());
    assert_eq!(cluster.get(JOBS).await.0, 401);
}

#[tokio::test]
async fn faults_meet_the_requests_they_are_meant_for() {
    let cluster = Cluster::start().await;
    let create = || On::new("create", "jobs").times(1);
    cluster
        .api
        .inject(Fault::AnswerAfter(Status::timeout()), create());
    let (code, status) = cluster.post(JOBS, &job("after", "true")).await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")));
    assert_eq!(
        cluster.post(JOBS, &job("after", "true")).await.0,
        409,
        "it was written"
    );
    cluster.api.inject(Fault::CutBefore, create());
    assert!(
        cluster
            .ask(Method::POST, JOBS, Some(&job("cut", "true")))
            .await
            .is_err()
    );
    assert_eq!(cluster.get(&format!("{JOBS}/cut")).await.0, 404);
    cluster.api.inject(Fault::CutAfter, create());
    assert!(
        cluster
            .ask(Method::POST, JOBS, Some(&job("cut", "true")))
            .await
            .is_err()
    );
    assert_eq!(cluster.get(&format!("{JOBS}/cut")).await.0, 200);
    cluster
        .api
        .inject(Fault::Answer(Status::too_many_requests(3)), create());
    let answer = cluster
        .ask(Method::POST, JOBS, Some(&job("x", "true")))
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &"3".parse().expect("valid"))
    );
    cluster.api.inject(
        Fault::Answer(Status::quota_timeout()),
        On::new("*", "jobs").chance(0.5),
    );
    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(cluster.get(JOBS).await.0);
    }
    assert!(codes.contains(&500) && codes.contains(&200), "{codes:?}");
    cluster.api.heal();
    cluster.api.go_away().await;
    assert!(cluster.ask(Method::GET, JOBS, None).await.is_err());
    cluster.api.come_back().await;
    assert_eq!(cluster.get(JOBS).await.0, 200);
    let asked = cluster.api.requests()[&("create".to_owned(), "jobs".to_owned())];
    assert_eq!(asked, 5);
}
