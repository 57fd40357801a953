//! Pods really run, and end in every way of the table of failures.

use super::setup::{Cluster, JOBS, LIMIT, PODS, has, job, phase, state};
use serde_json::json;
use std::time::Duration;
use testkit::eventually_some;
use testkit::kube::Kind;

#[tokio::test]
async fn a_job_runs_its_pod_as_its_user_in_namespaces_of_its_own_and_completes() {
    let cluster = Cluster::start().await;
    cluster
        .run(
            "one",
            "id -u; echo pid $$; touch /x 2>&1; touch /workspace/y && echo wrote; ls /sys/class/net /proc/net 2>/dev/null; cat \
             /proc/net/route | wc -l; echo $KUBERNETES_SERVICE_HOST",
        )
        .await;
    let done = cluster.job_with("one", "Complete").await;
    assert_eq!(done["status"]["succeeded"], 1);
    let pod = cluster.pod_with("one", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(state(&pod)["terminated"]["exitCode"], 0);
    assert_eq!(state(&pod)["terminated"]["reason"], "Completed");
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let (_, log) = cluster.get(&format!("{PODS}/{name}/log")).await;
    let log = log.as_str().expect("a text").to_owned();
    for line in [
        "10001\n",
        "pid 1\n",
        "Read-only file system",
        "wrote\n",
        "10.96.0.1\n",
    ] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    assert_eq!(cluster.api.starts("one"), 1);
}

#[tokio::test]
async fn an_exit_code_is_the_pods_and_the_job_never_carries_it() {
    let cluster = Cluster::start().await;
    cluster.run("seven", "exit 7").await;
    let failed = cluster.job_with("seven", "Failed").await;
    assert!(failed.to_string().contains("BackoffLimitExceeded"));
    let pod = cluster.pod_with("seven", |pod| phase(pod) == "Failed").await;
    assert_eq!(state(&pod)["terminated"]["exitCode"], 7);
    assert_eq!(state(&pod)["terminated"]["reason"], "Error");
}

#[tokio::test]
async fn a_program_that_is_missing_is_a_start_error() {
    let cluster = Cluster::start().await;
    let mut wrong = job("none", "true");
    wrong["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/nowhere/program"]);
    cluster.post(JOBS, &wrong).await;
    cluster.job_with("none", "Failed").await;
    let pod = cluster.pod_with("none", |pod| phase(pod) == "Failed").await;
    assert_eq!(state(&pod)["terminated"]["exitCode"], 128);
    assert_eq!(state(&pod)["terminated"]["reason"], "StartError");
}

#[tokio::test]
async fn images_that_cannot_be_had_leave_the_job_silent() {
    let cluster = Cluster::start().await;
    for (name, image, reason) in [
        ("missing", "missing/image:1", "ImagePullBackOff"),
        ("bad", "Bad:Name", "InvalidImageName"),
    ] {
        let mut wrong = job(name, "true");
        wrong["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        cluster.post(JOBS, &wrong).await;
        cluster
            .pod_with(name, |pod| state(pod)["waiting"]["reason"] == reason)
            .await;
    }
    for silent in cluster.api.objects(Kind::Job) {
        assert_eq!(silent["status"]["active"], 1);
        assert!(silent["status"]["conditions"].is_null());
    }
}

#[tokio::test]
async fn a_secret_that_comes_late_is_mounted_then() {
    let cluster = Cluster::start().await;
    let mut waits = job(
        "late",
        "cat /run/agent-order/order.json; touch /run/agent-order/x 2>&1",
    );
    let spec = &mut waits["spec"]["template"]["spec"];
    let volumes = spec["volumes"].as_array_mut().expect("a list");
    volumes.push(json!({"name": "order", "secret": {"secretName": "order"}}));
    let mounts = spec["containers"][0]["volumeMounts"]
        .as_array_mut()
        .expect("a list");
    mounts.push(json!({"name": "order", "mountPath": "/run/agent-order", "readOnly": true}));
    let (_, made) = cluster.post(JOBS, &waits).await;
    let message = eventually_some(LIMIT, || {
        let events = cluster.api.objects(Kind::Event).into_iter();
        std::future::ready(events.into_iter().find(|event| event["reason"] == "FailedMount"))
    });
    let message = message.await.expect("the kubelet says what it misses")["message"].to_string();
    assert!(message.contains("secret \\\"order\\\" not found"), "{message}");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "order", "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "Job", "name": "late", "uid": made["metadata"]["uid"],
        }]},
        "stringData": {"order.json": "the order"},
    });
    let (code, _) = cluster
        .post("/api/v1/namespaces/agent-tools/secrets", &secret)
        .await;
    assert_eq!(code, 201);
    cluster.job_with("late", "Failed").await;
    let pod = cluster.pod_with("late", |pod| phase(pod) == "Failed").await;
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let (_, log) = cluster.get(&format!("{PODS}/{name}/log")).await;
    assert!(log.to_string().contains("the order"), "{log}");
    assert!(log.to_string().contains("Read-only file system"), "{log}");
    cluster
        .delete(
            &format!("{JOBS}/late"),
            &json!({"propagationPolicy": "Background"}),
        )
        .await;
    testkit::eventually(LIMIT, || {
        std::future::ready(cluster.api.objects(Kind::Secret).is_empty())
    })
    .await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_an_oom_kill() {
    let cluster = Cluster::start().await;
    cluster.run("told", "sleep 30").await;
    cluster.pod_with("told", |pod| phase(pod) == "Running").await;
    cluster.api.oom("told");
    let pod = cluster.pod_with("told", |pod| phase(pod) == "Failed").await;
    assert_eq!(state(&pod)["terminated"]["exitCode"], 137);
    assert_eq!(state(&pod)["terminated"]["reason"], "OOMKilled");
    if std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| own.contains(":memory:")) {
        // The child is killed, the shell goes on: Complete, and yet OOMKilled.
        cluster
            .run(
                "real",
                "python3 -c 'x = bytearray(400 << 20)' 2>/dev/null; exit 0",
            )
            .await;
        cluster.job_with("real", "Complete").await;
        let pod = cluster.pod_with("real", |pod| phase(pod) == "Succeeded").await;
        assert_eq!(state(&pod)["terminated"]["reason"], "OOMKilled");
    }
}

#[tokio::test]
async fn the_pods_deadline_ends_it_and_leaves_it_there() {
    let cluster = Cluster::start().await;
    let mut short = job("deadline", "sleep 30");
    short["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 1.into();
    cluster.post(JOBS, &short).await;
    let pod = cluster.pod_with("deadline", |pod| phase(pod) == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert_eq!(state(&pod)["terminated"]["exitCode"], 137);
    cluster.job_with("deadline", "Failed").await;
}

#[tokio::test]
async fn evictions_and_a_lost_node_show_a_disruption() {
    let cluster = Cluster::start().await;
    for name in ["api", "node", "lost"] {
        let mut long = job(name, "sleep 30");
        long["spec"]["template"]["spec"]["tolerations"] = json!([{
            "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 4,
        }]);
        cluster.post(JOBS, &long).await;
        cluster.pod_with(name, |pod| phase(pod) == "Running").await;
    }
    cluster.api.evict("api");
    cluster.job_with("api", "Failed").await;
    cluster.no_pods("api").await;
    cluster
        .api
        .evict_by_node("node", "The node was low on resource: ephemeral-storage.");
    let pod = cluster.pod_with("node", |pod| phase(pod) == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    assert!(has(&pod, "DisruptionTarget"));
    cluster.api.lose_node("lost");
    let pod = cluster.pod_with("lost", |pod| has(pod, "DisruptionTarget")).await;
    assert_eq!(phase(&pod), "Running", "nobody confirms anything");
    cluster.job_with("lost", "Failed").await;
}

#[tokio::test]
async fn only_the_ports_that_are_named_can_be_reached() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let near = testkit::kube::KubeApi::start(testkit::kube::Options::default()).await;
    let options = testkit::kube::Options {
        reach: vec![near.port()],
        ..testkit::kube::Options::default()
    };
    let cluster = Cluster::with(options).await;
    let ask = |port: u16| {
        format!(
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{port}/version\", timeout=5).status)' 2>&1 \
             | tail -1"
        )
    };
    let own = cluster.api.port();
    cluster
        .run("net", &format!("{}; {}", ask(near.port()), ask(own)))
        .await;
    cluster.job_with("net", "Complete").await;
    let pod = cluster.pod_with("net", |_| true).await;
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let (_, log) = cluster.get(&format!("{PODS}/{name}/log")).await;
    let log = log.as_str().unwrap_or_default();
    assert!(log.starts_with("200\n"), "{log}");
    assert!(log.contains("Connection refused"), "{log}");
}

#[tokio::test]
async fn a_finished_job_goes_after_its_time_to_live() {
    let cluster = Cluster::start().await;
    let mut short = job("ttl", "true");
    short["spec"]["ttlSecondsAfterFinished"] = 1.into();
    cluster.post(JOBS, &short).await;
    cluster.job_with("ttl", "Complete").await;
    testkit::eventually(Duration::from_secs(5), || {
        std::future::ready(cluster.api.objects(Kind::Job).is_empty())
    })
    .await;
    cluster.no_pods("ttl").await;
}
