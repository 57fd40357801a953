use crate::support::{store, to};
use domain::Rejection;
use domain::command::{Command, Expiry};
use domain::status::RunStatus;
use jiff::SignedDuration;
use runs::{CommandError, Outbox, Sweep};
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn a_run_past_its_deadline_ends_with_timeout_and_an_early_sweep_changes_nothing() {
    let store = store().await;
    let sweep = Sweep::new(store.db.clone(), Arc::new(store.clock.clone()));
    let (job, _) = store.executing().await;
    assert!(sweep.overdue(10, DAY).await.unwrap().is_empty());
    let early = store.orchestration.expire(job.run_id, Expiry::RunDeadline).await;
    assert!(
        matches!(early, Err(CommandError::Rejected(Rejection::Illegal { .. }))),
        "{early:?}"
    );
    store.clock.advance(SignedDuration::from_mins(61));
    let overdue = sweep.overdue(10, DAY).await.unwrap();
    assert_eq!((overdue.len(), overdue[0].expiry), (1, Expiry::RunDeadline));
    let ended = store
        .orchestration
        .expire(job.run_id, overdue[0].expiry)
        .await
        .unwrap();
    assert_eq!(ended.run.status, RunStatus::Timeout);
    assert_eq!(ended.events.last().unwrap().message, "Run deadline exceeded");
    assert_eq!(ended.remove_job, Some(job.job_id));
}

#[tokio::test]
async fn waiting_is_not_working_time_but_has_its_own_limit() {
    let store = store().await;
    let sweep = Sweep::new(store.db.clone(), Arc::new(store.clock.clone()));
    let (job, epoch) = store.executing().await;
    store
        .progress(job.run_id, epoch, vec![to(RunStatus::WaitingUser)])
        .await
        .unwrap();
    store.clock.advance(SignedDuration::from_hours(23));
    assert!(sweep.overdue(10, DAY).await.unwrap().is_empty());
    store.clock.advance(SignedDuration::from_mins(61));
    let overdue = sweep.overdue(10, DAY).await.unwrap();
    assert_eq!(overdue[0].expiry, Expiry::WaitingForUser);
    let ended = store
        .orchestration
        .expire(job.run_id, Expiry::WaitingForUser)
        .await
        .unwrap();
    assert_eq!(
        ended.events.last().unwrap().message,
        "Waiting for user input timed out"
    );
}

#[tokio::test]
async fn used_up_attempts_and_poison_end_the_run_as_failed() {
    let store = store().await;
    for (expiry, code) in [(Expiry::MaxAttempts, "max_attempts"), (Expiry::Poison, "poison")] {
        let (job, _) = store.executing().await;
        store.orchestration.expire(job.run_id, expiry).await.unwrap();
        let view = store.reader.run(job.run_id).await.unwrap().unwrap();
        assert_eq!(
            (view["status"].as_str(), view["error_code"].as_str()),
            (Some("failed"), Some(code))
        );
        let twins = store
            .runtime
            .get(job.run_id, runs::EventWindow::default())
            .await
            .unwrap()
            .1;
        assert_eq!(
            twins.last().unwrap().payload["reason_class"],
            "executor_recovery_exhausted"
        );
    }
}

#[tokio::test]
async fn the_reconciler_pages_through_every_run_that_needs_a_job() {
    let store = store().await;
    let sweep = Sweep::new(store.db.clone(), Arc::new(store.clock.clone()));
    let queued = store.created(true).await.enqueue.unwrap();
    let (held, _) = store.executing().await;
    store.created(false).await;
    let stopped = store.created(true).await.run.id;
    store.command(stopped, Command::Stop).await.unwrap();
    let mut found = vec![];
    let mut after = None;
    loop {
        let page = sweep.live_page(after, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.run_id);
        found.extend(page);
    }
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0].job.as_ref(),
        Some(&queued),
        "the same text as at the first push"
    );
    assert_eq!((found[0].lease_alive, found[1].lease_alive), (false, true));
    assert_eq!(found[1].job.as_ref().unwrap().job_id, held.job_id);
}

#[tokio::test]
async fn the_outbox_gives_what_was_not_acknowledged_oldest_first() {
    let store = store().await;
    let outbox = Outbox::new(store.db.clone());
    let first = store.created(true).await.enqueue.unwrap();
    let second = store.created(true).await.enqueue.unwrap();
    let psql = store.psql().await;
    psql.batch_execute("UPDATE agent_outbox SET created_at = now() - interval '1 minute'")
        .await
        .unwrap();
    assert!(outbox.due(Duration::from_mins(2), 10).await.unwrap().is_empty());
    let due = outbox.due(Duration::from_secs(1), 10).await.unwrap();
    assert!(due.contains(&first) && due.contains(&second));
    outbox.sent(&[first.job_id]).await.unwrap();
    outbox.sent(&[first.job_id]).await.unwrap();
    assert_eq!(outbox.due(Duration::from_secs(1), 10).await.unwrap(), [second]);
}
