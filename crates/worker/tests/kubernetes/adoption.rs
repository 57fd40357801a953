//! A Job of the step's name that is there already: the creation is a lock, and whoever comes later goes on.

use crate::setup::{Bed, Worker, fails_with, says, shell};
use agent::ports::SandboxRequest;
use serde_json::json;
use testkit::kube::{Fault, Kind, On, Status};

/// A worker that died while its call ran; the call's request.
async fn orphan(bed: &Bed, command: &str) -> SandboxRequest {
    let dead = bed.worker(&[]).await;
    let request = shell(command);
    let call = dead.begin(&request);
    bed.started(&call.job).await;
    call.abandon().await;
    request
}

async fn ran_once(bed: &Bed, worker: &Worker, request: &SandboxRequest) {
    let job = worker.job_name(request);
    assert_eq!((bed.api.starts(&job), bed.api.made_jobs()[&job]), (1, 1));
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_after_the_write_makes_no_second_job() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    for fault in [Fault::AnswerAfter(Status::timeout()), Fault::CutAfter] {
        bed.api.inject(fault, On::new("create", "jobs").times(1));
        let request = shell("echo once");
        says(worker.run(&request).await, "once\n");
        ran_once(&bed, &worker, &request).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_before_the_write_is_tried_again() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    bed.api
        .inject(Fault::CutBefore, On::new("create", "jobs").times(2));
    let request = shell("echo once");
    says(worker.run(&request).await, "once\n");
    ran_once(&bed, &worker, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_adopted() {
    let bed = Bed::start().await;
    let request = orphan(&bed, "sleep 1; echo once; echo x > file").await;
    let worker = bed.worker(&[]).await;
    let output = worker.run(&request).await.unwrap();
    assert_eq!((output.stdout.as_str(), output.artifacts.len()), ("once\n", 1));
    ran_once(&bed, &worker, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_is_adopted_and_not_run_again() {
    let bed = Bed::start().await;
    let request = orphan(&bed, "echo once").await;
    let worker = bed.worker(&[]).await;
    let job = worker.job_name(&request);
    bed.pod_with(&job, |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    says(worker.run(&request).await, "once\n");
    ran_once(&bed, &worker, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_outlives_its_job() {
    let bed = Bed::start().await;
    let request = orphan(&bed, "echo once").await;
    let worker = bed.worker(&[]).await;
    let job = worker.job_name(&request);
    bed.pod_with(&job, |pod| pod["status"]["phase"] == "Succeeded")
        .await;
    // As its time to live does it.
    bed.api.take(Kind::Job, "agent-tools", &job);
    says(worker.run(&request).await, "once\n");
    ran_once(&bed, &worker, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_is_adopted_when_it_holds_the_quotas_last_place() {
    let bed = Bed::start().await;
    bed.api.set_quota(&[("count/jobs.batch", "1")]);
    let request = orphan(&bed, "sleep 2; echo once").await;
    // The server says "exceeded quota", not "already exists".
    let worker = bed.worker(&[]).await;
    says(worker.run(&request).await, "once\n");
    ran_once(&bed, &worker, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_being_deleted_is_waited_for() {
    let bed = Bed::start().await;
    let request = orphan(&bed, "trap '' TERM; sleep 1; echo again").await;
    let worker = bed.worker(&[]).await;
    let job = worker.job_name(&request);
    bed.running(&job).await;
    let client = reqwest::Client::new();
    let path = format!(
        "{}/apis/batch/v1/namespaces/agent-tools/jobs/{job}",
        bed.api.url()
    );
    let options = json!({"propagationPolicy": "Foreground"});
    let answer = client.delete(path).json(&options).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let output = worker.run(&request).await.unwrap();
    assert_eq!(
        (output.exit_code, output.stdout.as_str()),
        (Some(0), "again\n"),
        "{output:?}"
    );
    assert_eq!(
        bed.api.made_jobs()[&job],
        2,
        "the first was taken away by somebody"
    );
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_call_is_an_error_and_is_left_alone() {
    let bed = Bed::start().await;
    let request = orphan(&bed, "sleep 3; echo other").await;
    let worker = bed.worker(&[]).await;
    let mut another = request.clone();
    another.program = agent::ports::Program::Shell {
        command: "echo mine".to_owned(),
    };
    let job = worker.job_name(&request);
    let before = bed.job(&job).expect("it is there");
    let text = format!("Job {job} of this step was made for another call");
    fails_with(worker.run(&another).await, &text);
    let after = bed.job(&job).expect("it is still there");
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    says(worker.run(&request).await, "other\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_missing_is_made_again() {
    let bed = Bed::start().await;
    bed.api.set_room(false);
    let dead = bed.worker(&[]).await;
    let request = shell("echo once");
    let call = dead.begin(&request);
    testkit::eventually(crate::setup::LIMIT, || {
        std::future::ready(!bed.api.objects(Kind::Secret).is_empty())
    })
    .await;
    call.abandon().await;
    for secret in bed.api.objects(Kind::Secret) {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        bed.api.take(Kind::Secret, "agent-tools", name);
    }
    let worker = bed.worker(&[]).await;
    let call = worker.begin(&request);
    testkit::eventually(crate::setup::LIMIT, || {
        std::future::ready(!bed.api.objects(Kind::Secret).is_empty())
    })
    .await;
    bed.api.set_room(true);
    says(call.end().await, "once\n");
    ran_once(&bed, &worker, &request).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_run_it_once() {
    let bed = Bed::start().await;
    let (one, two) = (bed.worker(&[]).await, bed.worker(&[]).await);
    let request = shell("sleep 0.5; echo once");
    let (first, second) = (one.begin(&request), two.begin(&request));
    let (first, second) = tokio::join!(first.end(), second.end());
    says(first, "once\n");
    says(second, "once\n");
    ran_once(&bed, &one, &request).await;
}
