//! What the cluster does to a pod, or to us, is followed by the right result.

use crate::setup::{Bed, LIMIT, Running, Worker, says, shell};
use agent::ports::OutputStream;
use serde_json::json;
use std::time::Duration;
use testkit::eventually;
use testkit::kube::{Fault, Kind, On, Status};

fn slow(worker: &Worker) -> Running {
    worker.begin(&shell("echo up; sleep 3; echo done"))
}

/// The tool itself runs: its supervisor hears signals.
async fn is_up(call: &Running) {
    let heard = call.heard.clone();
    let up = move || std::future::ready(heard.text(OutputStream::Stdout).contains("up"));
    eventually(LIMIT, up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_taken_away_are_made_anew() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--k8s-result-seconds", "1"]).await;
    let taken_away = ["evicted", "evicted by its node", "deleted", "node lost"].map(|way| {
        let (bed, worker) = (&bed, &worker);
        async move {
            let call = slow(worker);
            is_up(&call).await;
            let job = call.job.clone();
            match way {
                "evicted" => bed.api.evict(&job),
                "evicted by its node" => bed
                    .api
                    .evict_by_node(&job, "The node was low on resource: memory."),
                "node lost" => bed.api.lose_node(&job),
                _ => delete_pod(bed, &job).await,
            }
            says(call.end().await, "up\ndone\n");
            assert_eq!(bed.api.starts(&job), 2, "{way}");
            eventually(LIMIT, || std::future::ready(bed.job(&job).is_none())).await;
        }
    });
    futures::future::join_all(taken_away).await;
}

async fn delete_pod(bed: &Bed, job: &str) {
    let pod = bed.pod_with(job, |_| true).await;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{}/api/v1/namespaces/agent-tools/pods/{name}", bed.api.url());
    let answer = reqwest::Client::new().delete(path).json(&json!({})).send().await;
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_deleted_by_hand_is_made_anew() {
    let bed = Bed::start().await;
    let worker = bed.worker(&["--k8s-result-seconds", "1"]).await;
    let call = slow(&worker);
    is_up(&call).await;
    bed.api.take(Kind::Job, "agent-tools", &call.job);
    says(call.end().await, "up\ndone\n");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_ends_no_call_and_makes_no_second_job() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let running = worker.begin(&shell("sleep 2; echo one"));
    let ended = worker.begin(&shell("sleep 5; echo two"));
    bed.running(&running.job).await;
    bed.running(&ended.job).await;
    bed.api.go_away().await;
    // One ends while nobody can be asked, one after the server is back; one begins meanwhile.
    let late = worker.begin(&shell("echo three"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    bed.api.come_back().await;
    says(running.end().await, "one\n");
    says(ended.end().await, "two\n");
    says(late.end().await, "three\n");
    assert!(bed.api.all_starts().values().all(|starts| *starts == 1));
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_break_in_every_way_change_no_result() {
    let bed = Bed::start().await;
    let short = Duration::from_millis(120);
    for fault in [
        Fault::WatchGone(short),
        Fault::WatchCut(short),
        Fault::WatchDouble,
        Fault::WatchReorder,
        Fault::Answer(Status::gone()),
        Fault::Answer(Status::too_many_requests(1)),
    ] {
        bed.api.inject(fault.clone(), On::new("watch", "*").times(6));
        let worker = bed.worker(&[]).await;
        let request = shell("sleep 0.7; echo once");
        says(worker.run(&request).await, "once\n");
        let job = worker.job_name(&request);
        assert_eq!(
            (bed.api.starts(&job), bed.api.made_jobs()[&job]),
            (1, 1),
            "{fault:?}"
        );
        bed.is_empty().await;
        bed.api.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_gone_is_listed_again() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let call = worker.begin(&shell("sleep 1; echo once"));
    bed.running(&call.job).await;
    bed.api.go_away().await;
    bed.api.compact();
    bed.api.come_back().await;
    let job = call.job.clone();
    says(call.end().await, "once\n");
    assert_eq!(bed.api.starts(&job), 1);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_falls_silent_is_survived_by_the_record() {
    let bed = Bed::start().await;
    bed.api.inject(Fault::WatchSilent, On::new("watch", "*"));
    let worker = bed.worker(&[]).await;
    let request = shell("sleep 0.5; echo once");
    says(worker.run(&request).await, "once\n");
    assert_eq!(bed.api.starts(&worker.job_name(&request)), 1);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dice_on_every_request_change_no_result() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let any = || On::new("*", "*");
    bed.api
        .inject(Fault::Answer(Status::unavailable()), any().chance(0.1));
    bed.api.inject(Fault::CutBefore, any().chance(0.1));
    bed.api
        .inject(Fault::AnswerAfter(Status::timeout()), any().chance(0.1));
    bed.api.inject(Fault::CutAfter, any().chance(0.1));
    bed.api
        .inject(Fault::Slow(Duration::from_millis(50)), any().chance(0.1));
    let calls = (0..20).map(|number| {
        let worker = &worker;
        async move {
            says(
                worker.run(&shell(&format!("echo {number}"))).await,
                &format!("{number}\n"),
            );
        }
    });
    futures::future::join_all(calls).await;
    assert!(
        bed.api.all_starts().values().all(|starts| *starts == 1),
        "{:?}",
        bed.api.all_starts()
    );
    bed.api.heal();
    bed.is_empty().await;
}
