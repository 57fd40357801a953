//! A full quota is a fair queue: nobody fails, nobody starves, no place is held longer than needed.

use crate::setup::{Bed, Heard, LIMIT, says, shell, shell_of};
use futures::future::join_all;
use std::sync::atomic::Ordering;
use testkit::eventually;
use testkit::kube::{Kind, On};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_against_fifty_places_all_succeed_and_no_user_starves() {
    let bed = Bed::start().await;
    // Two workers: they meet at the server's refusal.
    // A pod may be long in coming where 50 of them start on two cores.
    let patient = ["--k8s-no-pod-seconds", "30"];
    let workers = [bed.worker(&patient).await, bed.worker(&patient).await];
    // One user has asked for most of it before the others come.
    let users = (0..200).map(|number| match number {
        0..140 => "auth0|many".to_owned(),
        _ => format!("auth0|few-{}", number % 3),
    });
    let done = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let calls = users.enumerate().map(|(number, user)| {
        let (worker, heard, done) = (&workers[number % 2], Heard::default(), done.clone());
        async move {
            let request = shell_of(&user, &format!("sleep 0.3; echo {number}"));
            let call = worker.begin_with(&request, heard.clone());
            let ended = tokio::time::timeout(LIMIT * 4, call.end())
                .await
                .expect("it ends");
            done.lock().unwrap().push(user);
            says(ended, &format!("{number}\n"));
            let (waits, admissions) = (&heard.waits, &heard.admissions);
            let told = (waits.load(Ordering::SeqCst), admissions.load(Ordering::SeqCst));
            assert!(told == (0, 0) || told == (1, 1), "told {told:?}");
            told.0
        }
    });
    let waited: u32 = join_all(calls).await.into_iter().sum();
    assert!(waited >= 100, "only {waited} waited");
    assert!(bed.api.peak_jobs() <= 50, "{} Jobs at once", bed.api.peak_jobs());
    assert!(
        bed.api.peak_jobs() >= 40,
        "only {} Jobs at once",
        bed.api.peak_jobs()
    );
    // In fair turns the 60 calls of the few end long before the 140 of the one.
    let done = done.lock().unwrap().clone();
    let last = done
        .iter()
        .rposition(|user| user.starts_with("auth0|few"))
        .expect("they ran");
    assert!(last < 190, "the last of the few ended as number {last}");
    assert!(bed.api.all_starts().values().all(|starts| *starts == 1));
    assert_eq!(bed.api.all_starts().len(), 200);
    bed.is_empty().await;
}

/// Somebody else's Job, that has ended and holds its place.
fn other() -> serde_json::Value {
    serde_json::json!({"metadata": {"name": "other", "namespace": "agent-tools"}, "spec": {
        "template": {"spec": {"containers": [{"name": "x", "image": "missing/x"}], "restartPolicy": "Never"}},
    }, "status": {"conditions": [{"type": "Complete", "status": "True"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_others_fill_is_waited_for_and_used_at_once_when_it_is_free() {
    let bed = Bed::start().await;
    bed.api.set_quota(&[("count/jobs.batch", "1")]);
    bed.api.put(Kind::Job, other());
    let worker = bed.worker(&[]).await;
    let call = worker.begin(&shell("echo at last"));
    let heard = call.heard.clone();
    eventually(LIMIT, || {
        std::future::ready(heard.waits.load(Ordering::SeqCst) == 1)
    })
    .await;
    assert!(!call.is_over());
    bed.api.take(Kind::Job, "agent-tools", "other");
    says(call.end().await, "at last\n");
    assert_eq!(heard.admissions.load(Ordering::SeqCst), 1);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_quota_wait_too() {
    let bed = Bed::start().await;
    bed.api
        .set_quota(&[("count/jobs.batch", "50"), ("requests.cpu", "150m")]);
    let worker = bed.worker(&["--k8s-no-pod-seconds", "1"]).await;
    let first = worker.begin(&shell("sleep 4; echo first"));
    bed.running(&first.job).await;
    let second = worker.begin(&shell("echo second"));
    let heard = second.heard.clone();
    eventually(LIMIT, || {
        std::future::ready(heard.waits.load(Ordering::SeqCst) > 0)
    })
    .await;
    says(first.end().await, "first\n");
    says(second.end().await, "second\n");
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_can_be_stopped() {
    let bed = Bed::start().await;
    bed.api.set_quota(&[("count/jobs.batch", "1")]);
    bed.api.put(Kind::Job, other());
    let worker = bed.worker(&[]).await;
    let call = worker.begin(&shell("echo never"));
    let (heard, job) = (call.heard.clone(), call.job.clone());
    eventually(LIMIT, || {
        std::future::ready(heard.waits.load(Ordering::SeqCst) == 1)
    })
    .await;
    call.cancel.cancel();
    assert!(matches!(
        call.end().await,
        Err(agent::ports::SandboxError::Cancelled)
    ));
    bed.api.take(Kind::Job, "agent-tools", "other");
    says(worker.run(&shell("echo next")).await, "next\n");
    assert_eq!(bed.api.starts(&job), 0);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_quotas_calls_still_run() {
    let bed = Bed::start().await;
    bed.api.revoke("list", "resourcequotas");
    bed.api.revoke("watch", "resourcequotas");
    bed.api.revoke("get", "resourcequotas");
    bed.api.inject(
        testkit::kube::Fault::Answer(testkit::kube::Status::unavailable()),
        On::new("list", "events"),
    );
    let worker = bed.worker(&[]).await;
    says(worker.run(&shell("echo fine")).await, "fine\n");
    bed.is_empty().await;
}
