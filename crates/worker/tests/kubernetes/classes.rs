//! Every way a Job can fail ends as its class, within its limit, and leaves nothing in the cluster.

use crate::setup::{Bed, fails_with, says, shell};
use testkit::kube::{Fault, Kind, On, Status};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_runs_and_its_job_is_gone() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let request = shell("id -u; echo err >&2; echo made > file");
    let call = worker.begin(&request);
    let job = call.job.clone();
    let output = call.end().await.unwrap();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("10001\n", "err\n")
    );
    assert_eq!(output.artifacts[0].file_path, "file");
    bed.is_empty().await;
    assert_eq!((bed.api.starts(&job), bed.api.made_jobs()[&job]), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_comes_from_the_record() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let output = worker.run(&shell("echo so; exit 7")).await.unwrap();
    assert_eq!((output.exit_code, output.stdout.as_str()), (Some(7), "so\n"));
    assert_eq!(output.ended_by, None);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_for_want_of_memory_is_out_of_memory() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--k8s-result-seconds", "1"]).await;
    let call = worker.begin(&shell("echo up; sleep 60"));
    bed.running(&call.job).await;
    bed.api.oom(&call.job);
    let output = call.end().await.unwrap();
    assert_eq!(
        (output.exit_code, output.ended_by.as_deref()),
        (Some(137), Some("out of memory"))
    );
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_by_somebody_is_a_signal() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--k8s-result-seconds", "1"]).await;
    let call = worker.begin(&shell("sleep 60"));
    bed.running(&call.job).await;
    bed.api.kill(&call.job);
    let output = call.end().await.unwrap();
    assert_eq!(output.exit_code, Some(137));
    let by = output.ended_by.unwrap_or_default();
    assert!(by.starts_with("Killed by signal 9"), "{by}");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_the_supervisor_is_bad_configuration() {
    let bed = Bed::start().await;
    let worker = bed
        .worker(&["--tool-image", "foreign/empty:1", "--k8s-result-seconds", "1"])
        .await;
    let ended = worker.run(&shell("true")).await;
    fails_with(ended, "The tool's container cannot be started: StartError: ");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_own_deadline_is_a_timeout() {
    for frozen in [true, false] {
        let bed = Bed::start().await;
        let worker = bed.worker(&["--k8s-result-seconds", "1"]).await;
        let call = worker.begin(&shell("sleep 60"));
        bed.running(&call.job).await;
        if frozen {
            bed.api.freeze(&call.job);
        }
        bed.api.expire(&call.job);
        let output = call.end().await.unwrap();
        assert!(
            output.timed_out && output.exit_code.is_none(),
            "{frozen}: {output:?}"
        );
        bed.is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_is_told_with_what_the_cluster_says() {
    let bed = Bed::start().await;
    let worker = bed
        .worker(&["--tool-image", "missing/image:1", "--k8s-pull-seconds", "1"])
        .await;
    let error = worker.run(&shell("true")).await.unwrap_err().to_string();
    assert!(
        error.starts_with("The tool's image cannot be pulled: "),
        "{error}"
    );
    assert!(error.contains("missing/image:1"), "{error}");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_name_is_told_at_once() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--tool-image", "Bad:Name"]).await;
    let ended = worker.run(&shell("true")).await;
    fails_with(
        ended,
        "The name of the tool's image is not valid: InvalidImageName",
    );
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_goes_missing_is_bad_configuration() {
    let bed = Bed::start().await;
    bed.api.set_room(false);
    let worker = bed.worker(&["--k8s-prepare-seconds", "1"]).await;
    let call = worker.begin(&shell("true"));
    let secret = testkit::eventually_some(crate::setup::LIMIT, || {
        std::future::ready(bed.api.objects(Kind::Secret).into_iter().next())
    });
    let secret = secret.await.expect("the order");
    let name = secret["metadata"]["name"].as_str().unwrap_or_default();
    bed.api.take(Kind::Secret, "agent-tools", name);
    bed.api.set_room(true);
    fails_with(call.end().await, "The tool's container cannot be started: ");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_finds_no_node_is_unschedulable() {
    let bed = Bed::start().await;
    bed.api.set_room(false);
    let worker = bed.worker(&["--k8s-unscheduled-seconds", "1"]).await;
    let ended = worker.run(&shell("true")).await;
    fails_with(
        ended,
        "No node has room for the tool: 0/1 nodes are available: 1 Insufficient cpu.",
    );
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_breaks_the_namespaces_policy_is_refused_by_admission() {
    let bed = Bed::start().await;
    bed.api
        .set_violation(Some("unrestricted capabilities (a webhook added NET_RAW)"));
    let worker = bed.worker(&["--k8s-no-pod-seconds", "1"]).await;
    let error = worker.run(&shell("true")).await.unwrap_err().to_string();
    assert!(
        error.starts_with("The cluster refuses the tool's pod: "),
        "{error}"
    );
    assert!(error.contains("NET_RAW"), "{error}");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_told_and_nothing_runs() {
    let bed = Bed::start().await;
    bed.api.revoke("create", "jobs");
    let worker = bed.worker(&[]).await;
    let error = worker.run(&shell("true")).await.unwrap_err().to_string();
    assert!(error.contains("cannot create resource \"jobs\""), "{error}");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_given_leaves_no_job() {
    let bed = Bed::start().await;
    bed.api.revoke("create", "secrets");
    let worker = bed.worker(&[]).await;
    let error = worker.run(&shell("true")).await.unwrap_err().to_string();
    assert!(error.contains("cannot create resource \"secrets\""), "{error}");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_is_asked_again() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    for status in [
        Status::too_many_requests(1),
        Status::quota_timeout(),
        Status::quota_conflict("agent-tool-jobs-quota"),
        Status::unavailable(),
    ] {
        let code = status.code;
        bed.api
            .inject(Fault::Answer(status), On::new("create", "jobs").times(1));
        let request = shell(&format!("echo {code}"));
        says(worker.run(&request).await, &format!("{code}\n"));
        assert_eq!(bed.api.starts(&worker.job_name(&request)), 1);
    }
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_ours_gets_the_supervisor_from_an_init_container() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--tool-image-shell", "foreign/shell:1"]).await;
    let call = worker.begin(&shell("echo hello"));
    let pod = bed.pod_with(&call.job, |_| true).await;
    assert_eq!(pod["spec"]["initContainers"].as_array().map(Vec::len), Some(1));
    says(call.end().await, "hello\n");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_for_good_fails_as_workspace() {
    let mut bed = Bed::start().await;
    let worker = bed.worker(&["--k8s-result-seconds", "1"]).await;
    let call = worker.begin(&shell("sleep 1; echo lost"));
    bed.running(&call.job).await;
    bed.s3.stop().await;
    let error = call.end().await.unwrap_err();
    assert!(
        matches!(
            error,
            agent::ports::SandboxError::Workspace(agent::ports::WorkspaceError::Storage(_))
        ),
        "{error:?}"
    );
}
