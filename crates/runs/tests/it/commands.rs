use crate::support::{assert_in_order, job_id, outline, plan, settled, step, step_id, store, to, user};
use domain::change::Change;
use domain::command::{Command, Release};
use domain::event::{LogType, NewEvent};
use domain::ids::MessageId;
use domain::run::StepStatus;
use domain::status::RunStatus;
use domain::tool::ToolResult;
use domain::{Rejection, wire};
use futures::future::join_all;
use runs::{CommandError, runtime_runs};
use serde_json::json;

#[tokio::test]
async fn a_hundred_starts_at_once_lead_to_one_job() {
    let store = store().await;
    let run = store.created(false).await.run.id;
    let starts = join_all((0..100).map(|_| store.command(run, Command::Start { job_id: job_id() }))).await;
    let mut jobs = 0;
    for start in starts {
        match start {
            Ok(committed) => jobs += usize::from(committed.enqueue.is_some()),
            Err(CommandError::Rejected(Rejection::AlreadyRunning(RunStatus::Queued))) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(jobs, 1);
    assert_eq!(store.count("SELECT count(*) FROM agent_outbox").await, 1);
    assert_eq!(outline(&store.events(run).await), ["info", "info", "->queued"]);
}

#[tokio::test]
async fn sixteen_writers_leave_no_gap_and_times_rise_strictly() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let before = store.events(job.run_id).await.len();
    let writer = |_| async {
        for _ in 0..10 {
            let log = vec![Change::Log(NewEvent::info("a")), Change::Log(NewEvent::info("b"))];
            store.progress(job.run_id, epoch, log).await.unwrap();
        }
    };
    join_all((0..16).map(writer)).await;
    let events = store.events(job.run_id).await;
    assert_eq!(events.len(), before + 320);
    assert_in_order(&events);
    let chain = runtime_runs::verify(&store.db, job.run_id).await.unwrap();
    assert_eq!(
        chain,
        Some(runtime_runs::ChainReport::Intact {
            events: events.len() as u64
        })
    );
    let summary = store.runtime.summary(job.run_id).await.unwrap();
    assert_eq!(summary["event_count"], json!(events.len()));
    assert_eq!(
        store.runtime.checkpoint(job.run_id).await.unwrap()["last_seq"],
        summary["last_seq"]
    );
    assert_eq!(
        store.count("SELECT count(*) FROM runtime.projection_drift").await,
        0
    );
}

#[tokio::test]
async fn stopping_during_a_step_settles_it_as_cancelled_before_the_status_event() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let step_id = step_id();
    store
        .progress(job.run_id, epoch, vec![crate::support::turn(1), step(step_id, 1)])
        .await
        .unwrap();
    let stopped = store.command(job.run_id, Command::Stop).await.unwrap();
    assert_eq!(stopped.remove_job, Some(job.job_id));
    assert_eq!(
        outline(&stopped.events),
        ["info", "tool_error", "->cancelled", "complete"]
    );
    let (name, data) = wire::named_data(&stopped.events[1]);
    assert_eq!(
        (name, &data["error"], &data["success"]),
        ("tool_result", &json!("Cancelled"), &json!(false))
    );
    assert_eq!(stopped.events[1].message, "shell failed: Cancelled");
    let late = store
        .progress(
            job.run_id,
            epoch,
            vec![settled(step_id, ToolResult::ok(json!({}), 1.0))],
        )
        .await;
    assert!(
        matches!(
            late,
            Err(CommandError::Rejected(Rejection::Ended(RunStatus::Cancelled)))
        ),
        "{late:?}"
    );
    let steps = store
        .reader
        .parts(job.run_id, runs::RunParts::Steps, 10)
        .await
        .unwrap();
    assert_eq!(steps[0]["status"], StepStatus::Cancelled.as_str());
    assert_eq!(
        store.events(job.run_id).await.last().unwrap().log_type,
        LogType::Complete
    );
    assert_eq!(store.count("SELECT count(*) FROM agent_outbox").await, 0);
}

#[tokio::test]
async fn a_stopped_run_in_the_queue_is_never_claimed() {
    let store = store().await;
    let job = store.created(true).await.enqueue.unwrap();
    let stopped = store.command(job.run_id, Command::Stop).await.unwrap();
    assert_eq!(stopped.remove_job, Some(job.job_id));
    let claim = store.claim(&job, "w").await;
    assert!(matches!(
        claim,
        Err(CommandError::Rejected(Rejection::Ended(RunStatus::Cancelled)))
    ));
    assert_eq!(
        outline(&store.events(job.run_id).await),
        ["info", "info", "->queued", "->cancelled", "complete"]
    );
}

#[tokio::test]
async fn somebody_elses_run_is_not_found() {
    let store = store().await;
    let run = store.created(false).await.run.id;
    let foreign = store
        .orchestration
        .command(&"u-2".into(), run, Command::Stop, "")
        .await;
    assert!(matches!(foreign, Err(CommandError::NotFound)));
    let unknown = store
        .command(domain::RunId(uuid::Uuid::max()), Command::Stop)
        .await;
    assert!(matches!(unknown, Err(CommandError::NotFound)));
    assert!(
        store
            .reader
            .authorize(&"u-2".into(), run)
            .await
            .unwrap()
            .is_none()
    );
    assert!(store.reader.authorize(&user(), run).await.unwrap().is_some());
}

#[tokio::test]
async fn pausing_lets_the_running_step_settle_begins_nothing_and_frees_the_worker() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let step_id = step_id();
    store
        .progress(job.run_id, epoch, vec![step(step_id, 1)])
        .await
        .unwrap();
    store.command(job.run_id, Command::Pause).await.unwrap();
    let moved = store
        .progress(job.run_id, epoch, vec![Change::StepRestarted { step_id }])
        .await;
    assert!(matches!(moved, Err(CommandError::Rejected(Rejection::Paused))));
    let result = vec![settled(step_id, ToolResult::ok(json!({}), 1.0))];
    store.progress(job.run_id, epoch, result).await.unwrap();
    let freed = store
        .orchestration
        .release(job.run_id, epoch, Release::Done)
        .await
        .unwrap();
    assert_eq!(freed.remove_job, Some(job.job_id));
    let late = store
        .progress(job.run_id, epoch, vec![Change::Log(NewEvent::info("late"))])
        .await;
    assert!(matches!(late, Err(CommandError::Fenced)));
}

#[tokio::test]
async fn resuming_makes_a_new_job_and_gives_the_time_away_back() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let before = store.deadline(job.run_id).await;
    store.command(job.run_id, Command::Pause).await.unwrap();
    let retry = Release::Retry {
        after_ms: 1,
        error: "503".to_owned(),
        cause: domain::waiting::RetryCause::Failure,
    };
    let freed = store
        .orchestration
        .release(job.run_id, epoch, retry)
        .await
        .unwrap();
    assert!(freed.retry_job.is_none(), "a paused run has no entry in any list");
    store.clock.advance(jiff::SignedDuration::from_mins(30));
    let user_input = Some((MessageId(uuid::Uuid::from_u128(5)), "go on".to_owned()));
    let resume = Command::Resume {
        user_input,
        job_id: job_id(),
    };
    let resumed = store.command(job.run_id, resume).await.unwrap();
    let next = resumed.enqueue.unwrap();
    assert_ne!(next.job_id, job.job_id);
    assert_eq!(outline(&resumed.events), ["info", "->executing"]);
    let given_back = store.deadline(job.run_id).await.duration_since(before);
    assert!(
        given_back >= jiff::SignedDuration::from_secs(1799),
        "{given_back:?}"
    );
    let old = store.claim(&job, "x").await;
    assert!(matches!(old, Err(CommandError::DuplicateJob)), "{old:?}");
    let claimed = store.claim(&next, "x").await.unwrap();
    assert_eq!(claimed.committed.run.status, RunStatus::Executing);
    assert!(
        claimed.committed.events.is_empty(),
        "no planning, no note: nobody was lost"
    );
}

#[tokio::test]
async fn asking_the_user_parks_the_run() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let message_id = MessageId(uuid::Uuid::from_u128(9));
    let ask = Change::InputRequested {
        message_id,
        question: "Which one?".to_owned(),
    };
    let waiting = Change::Waiting(Some(json!({"for": "user"})));
    let asked = store
        .progress(job.run_id, epoch, vec![ask, waiting, to(RunStatus::WaitingUser)])
        .await
        .unwrap();
    assert_eq!(asked.remove_job, Some(job.job_id));
    assert!(asked.run.lease.is_none());
    assert_eq!(outline(&asked.events), ["user_input_required", "->waiting_user"]);
    assert_eq!(asked.events[0].message, "Waiting for user input: Which one?");
    let messages = store
        .reader
        .parts(job.run_id, runs::RunParts::Messages, 10)
        .await
        .unwrap();
    assert_eq!(messages[1]["content"], "Which one?");
    assert_eq!(messages[1]["role"], "assistant");
    store
        .orchestration
        .release(job.run_id, epoch, Release::Done)
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_is_written_after_the_end() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    store
        .progress(job.run_id, epoch, vec![to(RunStatus::Completed)])
        .await
        .unwrap();
    let count = store.events(job.run_id).await.len();
    for changes in [
        vec![Change::Log(NewEvent::info("late"))],
        vec![plan()],
        vec![to(RunStatus::Failed)],
    ] {
        assert!(store.progress(job.run_id, epoch, changes).await.is_err());
    }
    assert!(store.command(job.run_id, Command::Stop).await.is_err());
    let done = store
        .orchestration
        .release(job.run_id, epoch, Release::Done)
        .await
        .unwrap();
    assert_eq!((done.remove_job, done.events.len()), (Some(job.job_id), 0));
    assert_eq!(store.events(job.run_id).await.len(), count);
    let view = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(view["status"], "completed");
    assert!(view["completed_at"].is_string() && view["error_message"].is_null());
    assert_eq!(
        store.reader.progress(job.run_id).await.unwrap().unwrap()["percentage"],
        100.0
    );
}

#[tokio::test]
async fn a_commit_cancelled_at_any_point_keeps_no_lock_and_poisons_no_connection() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    for micros in (0..4000).step_by(40) {
        let log = vec![Change::Log(NewEvent::info("cut"))];
        let cut = store.progress(job.run_id, epoch, log);
        match tokio::time::timeout(std::time::Duration::from_micros(micros), cut).await {
            Ok(done) => drop(done.unwrap()),
            Err(_elapsed) => {}
        }
    }
    let whole = vec![Change::Log(NewEvent::info("whole"))];
    let limit = std::time::Duration::from_secs(3);
    let last = tokio::time::timeout(limit, store.progress(job.run_id, epoch, whole)).await;
    let seq = last.expect("no lock is left behind").unwrap().run.last_seq;
    let events = store.events(job.run_id).await;
    assert_eq!(events.len() as i64, seq);
    assert_in_order(&events);
}
