use crate::setup::{Setup, setup};
use domain::RunStatus;
use domain::ids::RunId;
use worker::retention::Swept;

const DAY: i64 = 24;

async fn is_kept(setup: &Setup, run: RunId) -> bool {
    !setup.files(run).list("").await.unwrap().is_empty()
}

#[tokio::test]
async fn by_age_each_ending_goes_in_its_time_and_downloads_are_told() {
    let setup = setup(&[
        "--workspace-retention-completed-days",
        "30",
        "--workspace-retention-failed-days",
        "3",
    ])
    .await;
    let completed = setup.ended(RunStatus::Completed, 10).await;
    let failed = setup.ended(RunStatus::Failed, 20).await;
    let cancelled = setup.ended(RunStatus::Cancelled, 30).await;
    assert_eq!(setup.sweeper.sweep().await.unwrap(), Swept::default());
    setup.pass(4 * DAY);
    let swept = setup.sweeper.sweep().await.unwrap();
    assert_eq!(
        (swept.runs, swept.deleted.files),
        (1, 2),
        "with what is ours: {swept:?}"
    );
    assert!(setup.stored(failed).await.is_empty());
    assert!(setup.reader.files_expired(failed).await.unwrap());
    assert!(!setup.reader.files_expired(completed).await.unwrap());
    assert_eq!(
        setup.stored(completed).await,
        ["result.txt"],
        "what is ours goes after a day"
    );
    setup.pass(30 * DAY);
    assert_eq!(setup.sweeper.sweep().await.unwrap().runs, 1);
    assert!(!is_kept(&setup, completed).await);
    assert!(is_kept(&setup, cancelled).await, "for ever, unless it is said");
    assert_eq!(setup.sweeper.sweep().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn by_size_the_oldest_go_first() {
    let setup = setup(&["--workspace-retention-user-max-bytes", "250"]).await;
    let mut runs = vec![];
    for _ in 0..4 {
        runs.push(setup.ended(RunStatus::Completed, 100).await);
        setup.pass(1);
    }
    let swept = setup.sweeper.sweep().await.unwrap();
    assert_eq!(swept.runs, 2);
    let mut kept = vec![];
    for run in runs {
        kept.push(is_kept(&setup, run).await);
    }
    assert_eq!(kept, [false, false, true, true]);
}

#[tokio::test]
async fn what_is_ours_goes_after_a_day_and_files_stay() {
    let setup = setup(&[]).await;
    let run = setup.ended(RunStatus::Completed, 10).await;
    setup.pass(23);
    assert_eq!(setup.sweeper.sweep().await.unwrap(), Swept::default());
    assert_eq!(setup.stored(run).await.len(), 2);
    setup.pass(2);
    assert_eq!(setup.sweeper.sweep().await.unwrap().scratch.files, 1);
    assert_eq!(setup.stored(run).await, ["result.txt"]);
}

#[tokio::test]
async fn a_sweep_that_is_cut_off_by_its_store_is_finished_by_a_later_one() {
    let mut setup = setup(&["--workspace-retention-completed-days", "1"]).await;
    let run = setup.ended(RunStatus::Completed, 10).await;
    setup.pass(2 * DAY);
    setup.sweeper.measure(10).await.unwrap();
    let due = setup.sweeper.due(None, 10).await.unwrap();
    assert_eq!(due.len(), 1);
    setup.s3.stop().await;
    let error = setup.sweeper.expire(&due[0]).await.unwrap_err();
    assert!(
        error.to_string().starts_with("workspace storage failed"),
        "{error}"
    );
    assert!(
        setup.reader.files_expired(run).await.unwrap(),
        "marked before anything is deleted"
    );
    setup.s3.restart().await;
    assert_eq!(setup.stored(run).await.len(), 2);
    assert_eq!(
        setup.sweeper.sweep().await.unwrap().deleted.files,
        0,
        "not at once"
    );
    setup.pass(1);
    assert_eq!(setup.sweeper.sweep().await.unwrap().deleted.files, 2);
    assert!(setup.stored(run).await.is_empty());
}

#[tokio::test]
async fn a_sweep_whose_worker_dies_is_finished_by_another_worker() {
    let setup = setup(&["--workspace-retention-completed-days", "1"]).await;
    let run = setup.ended(RunStatus::Completed, 10).await;
    setup.pass(2 * DAY);
    setup.sweeper.measure(10).await.unwrap();
    // It dies right after the mark, with some of the files deleted.
    assert!(
        setup
            .sweeper
            .runs
            .expire(run, domain::Clock::now(&setup.clock))
            .await
            .unwrap()
    );
    let key = format!("{}result.txt", setup.files(run).prefix());
    let gone = setup
        .s3
        .client()
        .delete_object()
        .bucket(setup.s3.bucket())
        .key(key);
    gone.send().await.unwrap();
    assert_eq!(
        setup.sweeper.resume().await.unwrap().files,
        0,
        "it may still be at work"
    );
    setup.pass(1);
    assert_eq!(setup.sweeper.sweep().await.unwrap().deleted.files, 1);
    assert!(setup.stored(run).await.is_empty());
}

#[tokio::test]
async fn two_workers_at_once_delete_each_file_once() {
    let setup = setup(&["--workspace-retention-failed-days", "1"]).await;
    for _ in 0..5 {
        setup.ended(RunStatus::Failed, 10).await;
    }
    setup.pass(2 * DAY);
    let (one, other) = tokio::join!(setup.sweeper.sweep(), setup.sweeper.sweep());
    // One may have been clearing away what is ours of a run when the other came to it.
    let rest = setup.sweeper.sweep().await.unwrap();
    let all = [one.unwrap(), other.unwrap(), rest];
    assert_eq!(all.iter().map(|swept| swept.runs).sum::<u64>(), 5, "{all:?}");
    let files = |swept: &Swept| swept.deleted.files + swept.scratch.files;
    assert_eq!(all.iter().map(files).sum::<u64>(), 10, "{all:?}");
}

#[tokio::test]
async fn files_a_live_retry_is_to_have_are_kept() {
    let setup = setup(&["--workspace-retention-failed-days", "1"]).await;
    let run = setup.ended(RunStatus::Failed, 10).await;
    let retry = setup.retry_with_files(run).await;
    setup.pass(9 * DAY);
    assert_eq!(setup.sweeper.sweep().await.unwrap().runs, 0);
    assert!(is_kept(&setup, run).await);
    let stop = domain::Command::Stop;
    let user = crate::setup::user();
    setup.orchestration.command(&user, retry, stop, "").await.unwrap();
    assert_eq!(
        setup.sweeper.sweep().await.unwrap().runs,
        1,
        "the retry has ended"
    );
}

#[tokio::test]
async fn files_of_unknown_runs_are_found_when_they_are_old() {
    let setup = setup(&[]).await;
    let known = setup.ended(RunStatus::Completed, 10).await;
    let unknown = RunId(uuid::Uuid::from_u128(7));
    setup.put(unknown, "left").await;
    assert_eq!(
        setup.sweeper.orphans().await.unwrap(),
        [],
        "it may just be coming"
    );
    setup.pass(25);
    let orphans = setup.sweeper.orphans().await.unwrap();
    assert_eq!(orphans.len(), 1, "{orphans:?}");
    assert_eq!((orphans[0].stored.run_id, orphans[0].amount.files), (unknown, 1));
    assert_eq!(setup.sweeper.remove(&orphans[0]).await.unwrap().bytes, 1);
    assert!(setup.stored(unknown).await.is_empty());
    assert_eq!(setup.stored(known).await.len(), 2);
}
