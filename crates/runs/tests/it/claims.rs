use crate::support::{LEASE, job_id, outline, settled, step, step_id, store, to};
use domain::Rejection;
use domain::change::Change;
use domain::command::{Command, Release};
use domain::event::NewEvent;
use domain::ids::WorkerId;
use domain::job::Job;
use domain::status::RunStatus;
use domain::tool::ToolResult;
use futures::future::join_all;
use runs::{CommandError, Leases, RenewalStatus};
use serde_json::json;

#[tokio::test]
async fn of_many_workers_one_gets_the_run() {
    let store = store().await;
    let job = store.created(true).await.enqueue.unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("w{n}")).collect();
    let claims = join_all(names.iter().map(|name| store.claim(&job, name))).await;
    let (won, lost): (Vec<_>, Vec<_>) = claims.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    assert!(
        lost.iter()
            .all(|claim| matches!(claim, Err(CommandError::Rejected(Rejection::Held(_)))))
    );
    let claimed = won.into_iter().next().unwrap().unwrap();
    assert_eq!(
        (claimed.epoch, claimed.committed.run.status),
        (1, RunStatus::Planning)
    );
    assert_eq!(claimed.committed.run.crash_count, 1);
}

#[tokio::test]
async fn a_take_over_is_in_the_log_and_fences_the_lost_worker() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let held = store.claim(&job, "b").await;
    assert!(matches!(held, Err(CommandError::Rejected(Rejection::Held(_)))));
    store.lease_runs_out(job.run_id).await;
    let taken = store.claim(&job, "b").await.unwrap();
    assert_eq!(taken.epoch, epoch + 1);
    assert_eq!(taken.committed.run.crash_count, 2);
    assert_eq!(taken.committed.run.retry_count, 1, "a crash uses up an attempt");
    assert_eq!(outline(&taken.committed.events), ["warning"]);
    let twins = store
        .runtime
        .get(job.run_id, runs::EventWindow::default())
        .await
        .unwrap()
        .1;
    assert_eq!(twins.last().unwrap().event_type, "run.executor_lost");
    for changes in [
        vec![Change::Log(NewEvent::info("late"))],
        vec![to(RunStatus::Completed)],
    ] {
        let late = store.progress(job.run_id, epoch, changes).await;
        assert!(matches!(late, Err(CommandError::Fenced)), "{late:?}");
    }
    let late = store
        .orchestration
        .release(job.run_id, epoch, Release::HandBack)
        .await;
    assert!(matches!(late, Err(CommandError::Fenced)));
    store
        .progress(job.run_id, taken.epoch, vec![Change::Log(NewEvent::info("on"))])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_settled_step_starts_both_counts_again() {
    let store = store().await;
    let (job, _) = store.executing().await;
    store.lease_runs_out(job.run_id).await;
    let taken = store.claim(&job, "b").await.unwrap();
    let id = step_id();
    let work = vec![step(id, 1), settled(id, ToolResult::ok(json!({}), 1.0))];
    let after = store.progress(job.run_id, taken.epoch, work).await.unwrap().run;
    assert_eq!((after.crash_count, after.retry_count), (0, 0));
}

#[tokio::test]
async fn a_worker_that_leaves_its_run_to_a_person_has_not_died() {
    let store = store().await;
    let (mut job, mut epoch) = store.executing().await;
    for status in [RunStatus::WaitingUser, RunStatus::Paused, RunStatus::WaitingUser] {
        let left = store.progress(job.run_id, epoch, vec![to(status)]).await.unwrap();
        assert_eq!((left.run.status, left.run.crash_count), (status, 0));
        let resume = Command::Resume {
            user_input: None,
            job_id: job_id(),
        };
        job = store.command(job.run_id, resume).await.unwrap().enqueue.unwrap();
        let claimed = store.claim(&job, "w").await.unwrap();
        assert_eq!(claimed.committed.run.crash_count, 1, "{status}");
        epoch = claimed.epoch;
    }
}

#[tokio::test]
async fn a_job_pushed_by_hand_starts_a_created_run_and_is_dropped_on_any_other() {
    let store = store().await;
    let run = store.created(false).await.run.id;
    let by_hand = |run_id| Job {
        job_id: job_id(),
        run_id,
        attempt: 1,
        retry_count: 0,
        priority: 0,
        enqueued_at: crate::support::now(),
        traceparent: String::new(),
    };
    let job = by_hand(run);
    let claimed = store.claim(&job, "w").await.unwrap();
    assert_eq!(outline(&claimed.committed.events), ["->queued", "->planning"]);
    assert_eq!(claimed.committed.run.job_id, Some(job.job_id));
    assert_eq!(
        store.count("SELECT count(*) FROM agent_outbox").await,
        0,
        "it is in the queue already"
    );
    assert!(matches!(
        store.claim(&by_hand(run), "x").await,
        Err(CommandError::DuplicateJob)
    ));
    assert!(matches!(
        store.claim(&by_hand(run), "w").await,
        Err(CommandError::DuplicateJob)
    ));
    let queued = store.created(true).await.run.id;
    assert!(matches!(
        store.claim(&by_hand(queued), "x").await,
        Err(CommandError::DuplicateJob)
    ));
    store.command(queued, Command::Stop).await.unwrap();
    let ended = store.claim(&by_hand(queued), "x").await;
    assert!(matches!(ended, Err(CommandError::Rejected(Rejection::Ended(_)))));
}

#[tokio::test]
async fn a_retry_uses_an_attempt_and_handing_back_does_not() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let back = store
        .orchestration
        .release(job.run_id, epoch, Release::HandBack)
        .await
        .unwrap()
        .run;
    assert_eq!((back.retry_count, back.crash_count, back.lease), (0, 0, None));
    let late = store
        .progress(job.run_id, epoch, vec![Change::Log(NewEvent::info("late"))])
        .await;
    assert!(
        matches!(late, Err(CommandError::Fenced)),
        "given back is given back"
    );
    let again = store.claim(&job, "w").await.unwrap();
    let release = Release::Retry {
        after_ms: 1500,
        error: "503".to_owned(),
        cause: domain::waiting::RetryCause::Failure,
    };
    let retried = store
        .orchestration
        .release(job.run_id, again.epoch, release)
        .await
        .unwrap();
    let next = retried.retry_job.unwrap();
    assert_eq!((next.attempt, next.retry_count, next.job_id), (2, 1, job.job_id));
    assert_eq!(
        retried.run.status,
        RunStatus::Executing,
        "a run in retry keeps its status"
    );
    let view = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert!(view["next_retry_at"].is_string());
    let third = store.claim(&next, "w").await.unwrap();
    assert!(third.committed.events.is_empty(), "nobody was lost");
    assert!(store.reader.run(job.run_id).await.unwrap().unwrap()["next_retry_at"].is_null());
    let ended = store
        .progress(job.run_id, third.epoch, vec![to(RunStatus::Completed)])
        .await
        .unwrap();
    assert_eq!(ended.events.last().unwrap().message, "Execution finished");
}

#[tokio::test]
async fn renewing_extends_the_lease_and_tells_cancel_pause_and_loss() {
    let store = store().await;
    let leases = Leases::new(store.db.clone());
    let worker = WorkerId::from("w");
    let (first, epoch) = store.executing().await;
    let (second, _) = store.executing().await;
    let (third, _) = store.executing().await;
    store.lease_runs_out(first.run_id).await;
    store.command(second.run_id, Command::Stop).await.unwrap();
    store.command(third.run_id, Command::Pause).await.unwrap();
    let lost = store.created(true).await.run.id;
    let asked = [first.run_id, second.run_id, third.run_id, lost].map(|run| (run, epoch));
    let renewals = leases.renew(&worker, &asked, LEASE).await.unwrap();
    let status = |run| {
        renewals
            .iter()
            .find(|renewal| renewal.run_id == run)
            .unwrap()
            .status
    };
    assert_eq!(
        status(first.run_id),
        RenewalStatus::Held {
            cancelled: false,
            paused: false
        }
    );
    assert_eq!(
        status(second.run_id),
        RenewalStatus::Held {
            cancelled: true,
            paused: false
        }
    );
    assert_eq!(
        status(third.run_id),
        RenewalStatus::Held {
            cancelled: false,
            paused: true
        }
    );
    assert_eq!(status(lost), RenewalStatus::Lost);
    let held = store.claim(&first, "b").await;
    assert!(
        matches!(held, Err(CommandError::Rejected(Rejection::Held(_)))),
        "the renewed lease is alive"
    );
}
