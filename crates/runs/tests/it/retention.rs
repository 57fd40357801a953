//! Which runs' files are past their time: by age, by size, and not while a retry needs them.

use crate::support::{Store, now, store, to, user};
use domain::ids::RunId;
use domain::status::RunStatus;
use jiff::{SignedDuration, Timestamp};
use runs::{Caps, Created, Cutoffs, EndedRun, Retention, RetryEdits};
use serde_json::json;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A run that ended so many hours ago, with files of so many bytes.
async fn ended(store: &Store, status: RunStatus, (hours, bytes): (i64, u64)) -> RunId {
    let (job, epoch) = store.executing().await;
    store.progress(job.run_id, epoch, vec![to(status)]).await.unwrap();
    let at = now().checked_sub(HOUR * i32::try_from(hours).unwrap()).unwrap();
    let sql = format!(
        "UPDATE agent_runs SET completed_at = '{at}' WHERE id = '{}'",
        job.run_id
    );
    store.psql().await.batch_execute(&sql).await.unwrap();
    let retention = Retention::new(store.db.clone());
    retention.measured(job.run_id, (1, bytes), now()).await.unwrap();
    job.run_id
}

fn ids(runs: &[EndedRun]) -> Vec<RunId> {
    runs.iter().map(|run| run.run_id).collect()
}

fn ago(hours: i64) -> Timestamp {
    now().checked_sub(HOUR * i32::try_from(hours).unwrap()).unwrap()
}

#[tokio::test]
async fn each_ending_has_its_own_age_and_the_oldest_come_first() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let old = ended(&store, RunStatus::Completed, (50, 1)).await;
    let failed = ended(&store, RunStatus::Failed, (20, 1)).await;
    let late = ended(&store, RunStatus::Timeout, (15, 1)).await;
    ended(&store, RunStatus::Completed, (5, 1)).await;
    let empty = ended(&store, RunStatus::Failed, (90, 1)).await;
    let sql = format!("UPDATE agent_workspaces SET files = 0 WHERE run_id = '{empty}'");
    store.psql().await.batch_execute(&sql).await.unwrap();
    let cutoffs = Cutoffs {
        completed: Some(ago(48)),
        failed: Some(ago(12)),
        cancelled: None,
    };
    let due = retention.past_age(cutoffs, 100).await.unwrap();
    assert_eq!(ids(&due), [old, failed, late]);
    assert_eq!(ids(&retention.past_age(cutoffs, 2).await.unwrap()), [old, failed]);
    assert_eq!(retention.past_age(Cutoffs::default(), 100).await.unwrap(), []);
    let all = retention.past_age(Cutoffs::all(ago(1)), 100).await.unwrap();
    assert_eq!(all.len(), 4, "a run without files is not deleted");
}

#[tokio::test]
async fn the_oldest_go_until_the_rest_fits() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let oldest = ended(&store, RunStatus::Completed, (9, 40)).await;
    let middle = ended(&store, RunStatus::Failed, (8, 40)).await;
    let newest = ended(&store, RunStatus::Completed, (7, 40)).await;
    let due = async |per_user: Option<u64>, altogether: Option<u64>| {
        let caps = Caps { per_user, altogether };
        ids(&retention.past_size(caps, 100).await.unwrap())
    };
    assert_eq!(due(None, Some(120)).await, []);
    assert_eq!(due(None, Some(119)).await, [oldest]);
    assert_eq!(due(Some(50), None).await, [oldest, middle]);
    assert_eq!(due(Some(39), Some(1000)).await, [oldest, middle, newest]);
    assert_eq!(due(None, None).await, []);
    assert!(retention.expire(oldest, now()).await.unwrap());
    assert_eq!(due(None, Some(80)).await, [], "what has expired does not count");
}

#[tokio::test]
async fn a_run_is_marked_once_and_its_removal_is_found_until_it_has_ended() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let run = ended(&store, RunStatus::Completed, (9, 1)).await;
    let at = now();
    let (first, second) = tokio::join!(retention.expire(run, at), retention.expire(run, at));
    assert!(first.unwrap() != second.unwrap(), "of two sweeps one has it");
    assert!(store.reader.files_expired(run).await.unwrap());
    let shown = store.reader.run(run).await.unwrap().unwrap();
    assert_eq!(shown["metadata"]["workspace"], "expired");
    assert_eq!(shown["metadata"]["project_id"], "p-1", "the rest stays");
    assert_eq!(retention.interrupted(at, 10).await.unwrap(), [], "it is in hand");
    let later = at.checked_add(HOUR).unwrap();
    assert_eq!(ids(&retention.interrupted(later, 10).await.unwrap()), [run]);
    let (first, second) = tokio::join!(retention.hold(run, later), retention.hold(run, later));
    assert!(first.unwrap() != second.unwrap(), "of two sweeps one goes on");
    retention.cleared(run, later).await.unwrap();
    let much_later = later.checked_add(HOUR).unwrap();
    assert_eq!(retention.interrupted(much_later, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_run_that_goes_on_is_neither_counted_nor_marked() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let (job, _) = store.executing().await;
    assert_eq!(retention.unmeasured(now(), 10).await.unwrap(), []);
    retention.measured(job.run_id, (1, 1), now()).await.unwrap();
    assert!(!retention.expire(job.run_id, now()).await.unwrap());
    assert_eq!(retention.past_age(Cutoffs::all(now()), 10).await.unwrap(), []);
}

#[tokio::test]
async fn files_that_a_retry_is_still_to_copy_are_kept() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let run = ended(&store, RunStatus::Failed, (90, 1)).await;
    let edits = RetryEdits {
        copy_workspace: true,
        ..RetryEdits::default()
    };
    let owner = user();
    let retried = store
        .orchestration
        .retry_edited(&owner, (run, edits), None, ("", 3));
    let Created::New(retry) = retried.await.unwrap() else {
        panic!("no key was given");
    };
    assert_eq!(retention.past_age(Cutoffs::all(now()), 10).await.unwrap(), []);
    let caps = Caps {
        altogether: Some(0),
        ..Caps::default()
    };
    assert_eq!(retention.past_size(caps, 10).await.unwrap(), []);
    assert!(!retention.expire(run, now()).await.unwrap());
    let job = retry.enqueue.unwrap();
    let claimed = store.claim(&job, "w").await.unwrap();
    let wanted = claimed.snapshot.wanted_files.unwrap();
    assert_eq!((wanted.of, wanted.expired), (Some(run), false));
    store
        .progress(job.run_id, claimed.epoch, vec![domain::Change::WorkspaceCopied])
        .await
        .unwrap();
    let shown = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(shown["metadata"]["workspace_copied"], json!(true));
    assert!(retention.expire(run, now()).await.unwrap(), "it has been copied");
}

#[tokio::test]
async fn a_retry_without_files_wants_none_and_one_that_comes_too_late_is_told() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let run = ended(&store, RunStatus::Failed, (90, 1)).await;
    assert!(retention.expire(run, now()).await.unwrap());
    for copy_workspace in [false, true] {
        let edits = RetryEdits {
            copy_workspace,
            ..RetryEdits::default()
        };
        let owner = user();
        let retried = store
            .orchestration
            .retry_edited(&owner, (run, edits), None, ("", 3));
        let Created::New(retry) = retried.await.unwrap() else {
            panic!("no key was given");
        };
        let claimed = store.claim(&retry.enqueue.unwrap(), "w").await.unwrap();
        let wanted = claimed.snapshot.wanted_files;
        assert_eq!(
            wanted.map(|wanted| wanted.expired),
            copy_workspace.then_some(true)
        );
    }
}

#[tokio::test]
async fn scratch_is_cleared_once() {
    let store = store().await;
    let retention = Retention::new(store.db.clone());
    let run = ended(&store, RunStatus::Cancelled, (30, 1)).await;
    let due = async || ids(&retention.with_scratch(ago(24), now(), 10).await.unwrap());
    assert_eq!(due().await, [run]);
    assert!(retention.hold(run, now()).await.unwrap());
    assert_eq!(due().await, [], "another sweep has it");
    retention.scratch_cleared(run, now()).await.unwrap();
    assert_eq!(due().await, []);
    let nobody = RunId(uuid::Uuid::nil());
    assert_eq!(retention.known(&[run, nobody]).await.unwrap(), [run]);
}
