use crate::support::{outline, plan, settled, step, step_id, store, to, turn};
use domain::change::Change;
use domain::ids::StepId;
use domain::job::Job;
use domain::run::StepStatus;
use domain::status::RunStatus;
use domain::tool::{ArtifactRef, FileChange, ToolResult};
use runs::{Claimed, Orchestration, RunLimits, RunParts};
use serde_json::json;
use std::sync::Arc;

fn with_file(path: &str) -> ToolResult {
    let artifact = ArtifactRef {
        file_path: path.to_owned(),
        file_size: 3,
        content_hash: "aa".to_owned(),
        mime_type: "text/plain".to_owned(),
        storage_bucket: "b".to_owned(),
        storage_key: format!("users/u-1/{path}"),
    };
    ToolResult {
        artifacts: vec![artifact],
        ..ToolResult::ok(json!({"bytes": 3}), 1.5)
    }
}

impl crate::support::Store {
    /// One settled and one running step, then the worker is lost and another takes over.
    async fn taken_over(&self) -> (Job, Claimed, [StepId; 2]) {
        let job = self.created(true).await.enqueue.unwrap();
        let first = self.claim(&job, "a").await.unwrap();
        let [done, open] = [step_id(), step_id()];
        let work = vec![turn(0), plan(), to(RunStatus::Executing), turn(1), step(done, 1)];
        self.progress(job.run_id, first.epoch, work).await.unwrap();
        let result = ToolResult::ok(json!({"n": 1}), 1.0);
        let work = vec![settled(done, result), turn(2), step(open, 2)];
        self.progress(job.run_id, first.epoch, work).await.unwrap();
        self.lease_runs_out(job.run_id).await;
        let second = self.claim(&job, "b").await.unwrap();
        (job, second, [done, open])
    }
}

#[tokio::test]
async fn a_step_has_one_call_one_result_and_its_files() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let id = step_id();
    store
        .progress(job.run_id, epoch, vec![turn(1), step(id, 1)])
        .await
        .unwrap();
    let done = store
        .progress(job.run_id, epoch, vec![settled(id, with_file("out/a.txt"))])
        .await
        .unwrap();
    assert_eq!(outline(&done.events), ["tool_success", "info"]);
    assert_eq!(done.events[1].metadata["url"], "storage://b/users/u-1/out/a.txt");
    let again = store
        .progress(job.run_id, epoch, vec![settled(id, with_file("out/a.txt"))])
        .await
        .unwrap();
    assert!(again.events.is_empty(), "a step settles once");
    let artifacts = store
        .reader
        .parts(job.run_id, RunParts::Artifacts, 10)
        .await
        .unwrap();
    assert_eq!((artifacts.len(), &artifacts[0]["filename"]), (1, &json!("a.txt")));
    let steps = store.reader.parts(job.run_id, RunParts::Steps, 10).await.unwrap();
    assert_eq!(steps[0]["step_number"], 1);
    assert_eq!(steps[0]["idempotency_key"], format!("{}:1:0", job.run_id));
    assert_eq!(
        (&steps[0]["credits_used"], &steps[0]["duration_ms"]),
        (&json!(1.5), &json!(12))
    );
    let messages = store
        .reader
        .parts(job.run_id, RunParts::Messages, 10)
        .await
        .unwrap();
    assert_eq!(
        (&messages[1]["role"], &messages[1]["tool_call_id"]),
        (&json!("tool"), &json!("call-1"))
    );
    let run = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(
        (&run["total_steps"], &run["completed_steps"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        (&run["total_tokens_used"], &run["total_credits_used"]),
        (&json!(15), &json!(1.5))
    );
}

#[tokio::test]
async fn a_take_over_finds_everything_that_was_stored() {
    let store = store().await;
    let (_, claimed, steps) = store.taken_over().await;
    let found = claimed.snapshot;
    assert_eq!(found.prompt, "List files");
    assert_eq!(found.connector_ids, ["github", "slack"]);
    assert_eq!(found.plan.as_ref().unwrap().total_phases(), 2);
    let turns: Vec<u32> = found.turns.iter().map(|stored| stored.turn.number).collect();
    assert_eq!(turns, [0, 1, 2]);
    assert_eq!(
        found.turns[1].turn.raw.to_string(),
        r#"{"z":1,"a":2}"#,
        "the reply as it came"
    );
    let seen: Vec<_> = found
        .steps
        .iter()
        .map(|step| (step.id, step.turn, step.status))
        .collect();
    assert_eq!(
        seen,
        [
            (steps[0], 1, StepStatus::Completed),
            (steps[1], 2, StepStatus::Running)
        ]
    );
    assert_eq!(found.steps[0].result.as_ref().unwrap().output, json!({"n": 1}));
    assert_eq!(found.total_tokens_used, 45);
    assert!(found.deadline_at.unwrap() > found.started_at.unwrap());
}

#[tokio::test]
async fn a_step_started_again_keeps_its_id_and_its_one_call() {
    let store = store().await;
    let (job, Claimed { epoch, .. }, [_, open]) = store.taken_over().await;
    let again = vec![Change::StepRestarted { step_id: open }];
    let restarted = store.progress(job.run_id, epoch, again).await.unwrap();
    assert!(restarted.events.is_empty(), "its call is in the log already");
    let result = vec![settled(open, ToolResult::failed("exit code 1", 1.0))];
    let events = store.progress(job.run_id, epoch, result).await.unwrap().events;
    assert_eq!(events[0].message, "shell failed: exit code 1");
    let calls = "SELECT count(*) FROM agent_task_logs WHERE metadata->>'event' = 'tool_call'";
    assert_eq!(store.count(calls).await, 2);
    store.lease_runs_out(job.run_id).await;
    let found = store.claim(&job, "c").await.unwrap().snapshot;
    assert_eq!(
        (found.steps[1].retry_count, found.steps[1].status),
        (1, StepStatus::Failed)
    );
}

#[tokio::test]
async fn a_turn_and_a_step_of_one_place_exist_once() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    store
        .progress(job.run_id, epoch, vec![turn(1), step(step_id(), 1)])
        .await
        .unwrap();
    let count = store.events(job.run_id).await.len();
    assert!(store.progress(job.run_id, epoch, vec![turn(1)]).await.is_err());
    assert!(
        store
            .progress(job.run_id, epoch, vec![step(step_id(), 1)])
            .await
            .is_err()
    );
    assert_eq!(
        store.events(job.run_id).await.len(),
        count,
        "a refused commit leaves nothing"
    );
    store.progress(job.run_id, epoch, vec![turn(2)]).await.unwrap();
}

#[tokio::test]
async fn a_step_is_charged_exactly_once_when_credits_are_enforced() {
    let store = store().await;
    let limits = RunLimits {
        credits_enforced: true,
        ..RunLimits::default()
    };
    let charging = Orchestration::new(
        store.db.clone(),
        Arc::new(store.clock.clone()),
        crate::support::ids(),
    )
    .with_limits(limits);
    let credits = runs::Credits::new(store.db.clone());
    credits
        .grant_initial(&crate::support::user(), 10.0)
        .await
        .unwrap();
    credits
        .grant_initial(&crate::support::user(), 10.0)
        .await
        .unwrap();
    let (job, epoch) = store.executing().await;
    let id = step_id();
    let work = vec![step(id, 1), settled(id, ToolResult::ok(json!({}), 1.5))];
    charging.progress(job.run_id, epoch, work).await.unwrap();
    charging
        .progress(
            job.run_id,
            epoch,
            vec![settled(id, ToolResult::ok(json!({}), 1.5))],
        )
        .await
        .unwrap();
    let balance = credits.balance(&crate::support::user()).await.unwrap();
    assert!((balance - 8.5).abs() < 1e-9, "{balance}");
    assert_eq!(
        store
            .count("SELECT count(*) FROM credit_transactions WHERE amount = -1.5")
            .await,
        1
    );
}

#[tokio::test]
async fn reasoning_plan_and_phases_are_in_the_log_with_their_fixed_texts() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let work = vec![turn(1), Change::PhaseAdvanced { from: 1, to: 2 }];
    store.progress(job.run_id, epoch, work).await.unwrap();
    let texts: Vec<String> = store
        .events(job.run_id)
        .await
        .into_iter()
        .map(|event| event.message)
        .collect();
    for text in [
        "Plan created with 2 phase(s)",
        "Agent reasoning: look first",
        "Advanced from phase 1 to phase 2",
    ] {
        assert!(texts.iter().any(|found| found == text), "{text} in {texts:?}");
    }
    let progress = store.reader.progress(job.run_id).await.unwrap().unwrap();
    assert_eq!(
        (&progress["current_phase"], &progress["percentage"]),
        (&json!(2), &json!(99.0))
    );
}

#[tokio::test]
async fn a_step_without_room_is_pending_and_tells_it_once_however_often_it_waits() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let id = step_id();
    store
        .progress(job.run_id, epoch, vec![turn(1), step(id, 1)])
        .await
        .unwrap();
    let waits = vec![Change::StepWaiting { step_id: id }];
    let first = store.progress(job.run_id, epoch, waits.clone()).await.unwrap();
    assert_eq!(outline(&first.events), ["warning"]);
    assert_eq!(first.events[0].message, "Waiting for tool capacity");
    let shown = async || {
        let steps = store.reader.parts(job.run_id, RunParts::Steps, 10).await.unwrap();
        let run = store.reader.run(job.run_id).await.unwrap().unwrap();
        let step = &steps[0];
        let waiting = step["metadata"].get("waiting").cloned().unwrap_or_default();
        (
            step["status"].clone(),
            waiting,
            run["waiting_for"]["kind"].clone(),
        )
    };
    let waiting = (json!("pending"), json!("quota"), json!("sandbox_capacity"));
    assert_eq!(shown().await, waiting);
    // The worker is lost; the next one starts the step again and meets a full quota as well.
    store.lease_runs_out(job.run_id).await;
    let epoch = store.claim(&job, "b").await.unwrap().epoch;
    let again = vec![Change::StepRestarted { step_id: id }, waits[0].clone()];
    let second = store.progress(job.run_id, epoch, again).await.unwrap();
    assert!(second.events.is_empty(), "{:?}", second.events);
    assert_eq!(shown().await, waiting);
    let admitted = vec![Change::StepAdmitted { step_id: id }];
    store.progress(job.run_id, epoch, admitted).await.unwrap();
    assert_eq!(shown().await, (json!("running"), json!(null), json!(null)));
    let done = vec![waits[0].clone(), settled(id, ToolResult::ok(json!({}), 1.0))];
    store.progress(job.run_id, epoch, done).await.unwrap();
    assert_eq!(shown().await, (json!("completed"), json!(null), json!(null)));
}

#[tokio::test]
async fn what_a_step_did_to_files_is_kept_with_it_and_shown() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let id = step_id();
    let mut result = with_file("a.txt");
    result.changes = vec![
        FileChange::stored(&result.artifacts[0], false),
        FileChange::deleted("old.txt"),
    ];
    let work = vec![turn(1), step(id, 1), settled(id, result)];
    store.progress(job.run_id, epoch, work).await.unwrap();
    let steps = store.reader.parts(job.run_id, RunParts::Steps, 10).await.unwrap();
    let files = json!({"added": [{"path": "a.txt", "sha256": "aa", "bytes": 3}], "changed": [], "deleted": ["old.txt"]});
    assert_eq!(steps[0]["metadata"]["files"], files);
    assert_eq!(
        steps[0]["tool_output"].as_object().unwrap().len(),
        6,
        "{}",
        steps[0]
    );
    // A worker that was lost meanwhile comes late with its own result.
    let late = settled(id, with_file("b.txt"));
    store.progress(job.run_id, epoch, vec![late]).await.unwrap();
    let steps = store.reader.parts(job.run_id, RunParts::Steps, 10).await.unwrap();
    assert_eq!(steps[0]["metadata"]["files"], files);
    let known = store
        .reader
        .known_files(job.run_id, vec!["a.txt".to_owned(), "none".to_owned()])
        .await
        .unwrap();
    assert_eq!((known.len(), known["a.txt"].sha256.as_str()), (1, "aa"));
}

#[tokio::test]
async fn a_new_plan_raises_the_version_keeps_the_phase_and_is_told_with_reason_and_difference() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let advanced = Change::PhaseAdvanced { from: 1, to: 2 };
    store
        .progress(job.run_id, epoch, vec![turn(1), advanced])
        .await
        .unwrap();
    let phases: Vec<_> = (1..=3)
        .map(|n| json!({"phase_number": n, "name": format!("p{n}")}))
        .collect();
    let value = json!({"goal": "g", "total_estimated_credits": 0, "phases": phases});
    let revised = Change::PlanRevised {
        plan: domain::Plan::from_value(&value).unwrap(),
        reason: "more to do".to_owned(),
        difference: domain::plan::PlanDifference {
            added: vec!["p3".to_owned()],
            ..Default::default()
        },
    };
    let done = store.progress(job.run_id, epoch, vec![revised]).await.unwrap();
    let event = &done.events[0];
    assert_eq!(event.message, "Plan changed: more to do");
    assert_eq!(
        (&event.metadata["event"], &event.metadata["plan_version"]),
        (&json!("replan"), &json!(2))
    );
    assert_eq!(event.metadata["difference"]["added"], json!(["p3"]));
    let run = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(
        (&run["plan_version"], &run["current_phase"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(run["plan"]["phases"][2]["name"], "p3");
    let progress = store.reader.progress(job.run_id).await.unwrap().unwrap();
    assert_eq!(progress["total_phases"], 3);
}

#[tokio::test]
async fn a_refused_step_is_restored_as_one() {
    let store = store().await;
    let job = store.created(true).await.enqueue.unwrap();
    let first = store.claim(&job, "a").await.unwrap();
    let [refused, said] = [step_id(), step_id()];
    let work = vec![
        turn(0),
        plan(),
        to(RunStatus::Executing),
        turn(1),
        step(refused, 1),
    ];
    store.progress(job.run_id, first.epoch, work).await.unwrap();
    // The same words: once our own, once those of another system.
    let words = ToolResult::failed("search is not configured: set A_KEY", 0.0);
    let work = vec![
        settled(refused, words.clone().as_refused()),
        turn(2),
        step(said, 2),
    ];
    store.progress(job.run_id, first.epoch, work).await.unwrap();
    let work = vec![settled(said, words)];
    store.progress(job.run_id, first.epoch, work).await.unwrap();
    store.lease_runs_out(job.run_id).await;
    let second = store.claim(&job, "b").await.unwrap();
    let results = second
        .snapshot
        .steps
        .iter()
        .filter_map(|step| step.result.as_ref());
    assert_eq!(
        results.map(|result| result.refused).collect::<Vec<_>>(),
        [true, false]
    );
}
