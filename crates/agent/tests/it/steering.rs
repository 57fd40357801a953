//! Calls side by side, plans that change on the way, phases that end with their files, long outputs kept whole.

use super::long_runs::{Calls, Native, events};
use super::*;
use agent::ports::Workspace as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;

/// Reading tools that answer only when `width` of them have been called.
struct Readers {
    width: Barrier,
    now: AtomicUsize,
    most: AtomicUsize,
    fault: Option<&'static str>,
}

impl Readers {
    fn meeting(width: usize) -> Self {
        Self {
            width: Barrier::new(width),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            fault: None,
        }
    }
}

impl RemoteTools for Readers {
    fn specs(&self) -> Vec<ToolSpec> {
        vec![]
    }

    fn labels_of(&self, _: &str, _: &Value) -> domain::Labels {
        domain::Labels::default()
    }

    fn effect_of(&self, tool_name: &str, _: &Value) -> Option<Effect> {
        match tool_name {
            "look" => Some(Effect::Pure),
            "stuck" => Some(Effect::AtMostOnce),
            _ => None,
        }
    }

    async fn call(&self, call: &Call<'_>, _: &CancellationToken) -> Result<ToolResult, ToolError> {
        if call.tool_name == "stuck" {
            std::future::pending::<()>().await;
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // Alone they would wait for ever.
        let met = tokio::time::timeout(Duration::from_secs(5), self.width.wait()).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        if met.is_err() {
            return Ok(ToolResult::failed("nobody else came", 0.0));
        }
        match self.fault {
            Some(which) if call.tool_input["n"] == which => {
                Err(ToolError::Retry("connection reset".to_owned()))
            }
            _ => Ok(ToolResult::ok(json!({"seen": call.tool_input["n"]}), 0.0)),
        }
    }
}

fn look(n: &str) -> Value {
    json!({"type": "tool", "tool_name": "look", "tool_input": {"n": n}})
}

fn settled(bench: &Bench) -> Vec<(uuid::Uuid, Value)> {
    let settled = bench.log.changes().into_iter().filter_map(|change| match change {
        Change::StepSettled { step_id, result, .. } => Some((step_id.0, result.output)),
        _ => None,
    });
    settled.collect()
}

#[tokio::test]
async fn reading_calls_of_a_turn_run_side_by_side_up_to_the_limit_and_settle_in_order() {
    let bench = Bench::new();
    let readers = Readers::meeting(4);
    let calls: Vec<Value> = ["a", "b", "c", "d", "e", "f", "g", "h"].map(look).to_vec();
    let model = ListModel::new(&plan(1), &[json!(calls), json!({"type": "task_complete"})]);
    let outcome = bench.drive_with(&model, &readers, snapshot()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    assert_eq!(readers.most.load(Ordering::SeqCst), 4);
    let run = snapshot().run_id;
    let expected: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .into_iter()
        .zip(0u32..)
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(n, at)| (step_id(run, 1, *at).0, json!({"seen": n})))
        .collect();
    assert_eq!(settled(&bench), expected);
}

#[tokio::test]
async fn a_changing_call_waits_for_those_before_it_and_those_behind_it_wait_for_it() {
    let bench = Bench::new();
    let readers = Readers::meeting(2);
    let turn = json!([look("a"), look("b"), write("a.txt"), look("c"), look("d")]);
    let model = ListModel::new(&plan(1), &[turn, json!({"type": "task_complete"})]);
    let outcome = bench.drive_with(&model, &readers, snapshot()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    assert_eq!(readers.most.load(Ordering::SeqCst), 2);
    let names: Vec<String> = bench
        .names()
        .into_iter()
        .flatten()
        .filter(|name| name.starts_with("Step"))
        .collect();
    let [start, settle] = ["StepStarted", "StepSettled"];
    assert_eq!(
        names,
        [
            start, start, settle, settle, start, settle, start, start, settle, settle
        ]
    );
}

#[tokio::test]
async fn when_one_reading_call_has_to_be_tried_again_only_what_comes_before_it_is_settled() {
    let bench = Bench::new();
    let readers = Readers {
        fault: Some("b"),
        ..Readers::meeting(3)
    };
    let model = ListModel::new(&plan(1), &[json!(["a", "b", "c"].map(look))]);
    let outcome = bench.drive_with(&model, &readers, snapshot()).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert_eq!(settled(&bench).len(), 1);
    assert_eq!(
        bench.names().last().unwrap(),
        &["StepSettled", "StepReset", "StepReset"]
    );
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_that_must_not_be_repeated_is_asked_about() {
    let bench = Bench {
        limits: Limits {
            step_timeout_seconds: 1,
            ..Limits::default()
        },
        ..Bench::new()
    };
    let stuck = json!({"type": "tool", "tool_name": "stuck", "tool_input": {}});
    let model = ListModel::new(&plan(1), &[stuck]);
    let outcome = bench.drive_with(&model, &Readers::meeting(1), snapshot()).await;
    assert_eq!(outcome, Outcome::Waiting);
    assert!(format!("{:?}", bench.log.changes()).contains("no answer within 1 seconds"));
}

fn revised() -> Value {
    json!({"type": "tool", "tool_name": "replan", "tool_input": {
        "reason": "the data is elsewhere",
        "phases": [{"name": "fetch"}, {"name": "p", "description": "more"}, {"name": "report"}]}})
}

#[tokio::test]
async fn a_plan_is_changed_on_the_way_with_reason_and_difference_and_the_run_works_through_the_new_one() {
    let bench = Bench::new();
    let next = || json!({"type": "phase_complete"});
    let turns = [next(), revised(), next(), next(), next()];
    let model = ListModel::new(&plan(2), &turns);
    let outcome = bench.drive(&model, snapshot()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let changed = bench.log.changes().into_iter().find_map(|change| match change {
        Change::PlanRevised {
            plan,
            reason,
            difference,
        } => Some((plan, reason, difference)),
        _ => None,
    });
    let (plan, reason, difference) = changed.unwrap();
    assert_eq!(reason, "the data is elsewhere");
    assert_eq!(plan.total_phases(), 4, "the phase that was done stays");
    assert_eq!(difference.added, ["fetch", "report"]);
    let asked = model.asked.lock().unwrap().len();
    assert_eq!(asked, 6, "all four phases were gone through");
}

#[tokio::test]
async fn a_new_plan_that_cannot_be_used_is_told_to_the_model_and_nothing_changes() {
    let bench = Bench::new();
    let empty = json!({"type": "tool", "tool_name": "replan", "tool_input": {"reason": "x", "phases": []}});
    let model = ListModel::new(&plan(1), &[empty, json!({"type": "task_complete"})]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    let text = format!("{:?}", bench.log.changes());
    assert!(text.contains("replan needs a reason and at least one phase") && !text.contains("PlanRevised"));
}

#[tokio::test]
async fn a_run_that_is_taken_over_after_a_new_plan_stands_where_it_was() {
    let bench = Bench::new();
    let next = || json!({"type": "phase_complete"});
    let mut left = snapshot();
    left.status = RunStatus::Executing;
    let mut made = Plan::from_value(&plan(4)).unwrap();
    made.phases[3].name = "report".to_owned();
    left.plan = Some(made);
    let turn = |number, action: Value| Turn {
        number,
        actions: vec![serde_json::from_value(action).unwrap()],
        raw: Value::Null,
        fault: None,
    };
    left.turns = vec![turn(1, next()), turn(2, revised())];
    left.steps = vec![StoredStep {
        id: step_id(left.run_id, 2, 0),
        turn: 2,
        action: 0,
        status: StepStatus::Completed,
        result: Some(ToolResult::ok(json!({"phases": 4}), 0.0)),
        started_here: false,
    }];
    let none = Value::Null;
    let model = ListModel::new(&plan(2), &[none.clone(), none, next(), next(), next()]);
    assert_eq!(
        bench.drive(&model, left).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(model.asked.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_run_in_a_phase_that_its_plan_does_not_hold_fails_and_says_which() {
    let bench = Bench::new();
    let mut changed = planned(&plan(3));
    if let Some(plan) = &mut changed.plan {
        plan.phases.remove(1);
        plan.phases.extend(plan.phases.last().cloned());
    }
    let next = || json!({"type": "phase_complete"});
    let model = ListModel::new(&plan(3), &[next(), next(), next()]);
    assert_eq!(
        bench.drive(&model, changed).await,
        Outcome::Finished(RunStatus::Failed)
    );
    assert_eq!(model.asked.lock().unwrap().len(), 1);
    assert!(format!("{:?}", bench.log.changes()).contains("Phase 2 not found in plan"));
}

fn phase_with(outputs: &[&str]) -> Value {
    json!({"goal": "g", "total_estimated_credits": 0,
        "phases": [{"phase_number": 1, "name": "p", "expected_outputs": outputs}]})
}

fn checking() -> Bench {
    let limits = Limits {
        check_outputs: true,
        ..Limits::default()
    };
    Bench {
        limits,
        ..Bench::new()
    }
}

fn planned(plan: &Value) -> Snapshot {
    let mut planned = snapshot();
    planned.status = RunStatus::Executing;
    planned.plan = Some(Plan::from_value(plan).unwrap());
    planned
}

fn finish() -> (&'static str, Value) {
    ("phase_complete", json!({"summary": "all done"}))
}

#[tokio::test]
async fn a_phase_without_its_files_is_sent_back_once_and_ends_when_they_are_there() {
    let bench = checking();
    let model = Native::new(|number| -> Calls {
        match number {
            1 => vec![finish()],
            _ => vec![
                ("file_write", json!({"filepath": "out/report.md", "content": "x"})),
                finish(),
            ],
        }
    });
    let plan = phase_with(&["`out/report.md`", "a good summary"]);
    let outcome = bench.drive(&model, planned(&plan)).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let told: Vec<Value> = events(&bench, "outputs_missing").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0]["missing"], &told[0]["taken"]),
        (&json!(["out/report.md"]), &json!(false))
    );
    assert!(
        model
            .last_request()
            .contains("its expected outputs do not exist: out/report.md")
    );
    assert!(
        format!("{:?}", bench.log.changes()).contains("all done"),
        "the summary is said"
    );
}

#[tokio::test]
async fn a_model_that_insists_ends_the_phase_with_a_warning() {
    let bench = checking();
    let model = Native::new(|_| -> Calls { vec![finish()] });
    let outcome = bench.drive(&model, planned(&phase_with(&["report.md"]))).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let taken: Vec<Value> = events(&bench, "outputs_missing")
        .map(|told| told["taken"].clone())
        .collect();
    assert_eq!(taken, [json!(false), json!(true)]);
}

#[tokio::test]
async fn outputs_in_words_and_runs_that_are_not_checked_end_as_ever() {
    for (bench, outputs) in [
        (checking(), ["a report, e.g. on sales"]),
        (checking(), ["src/*.py"]),
        (checking(), ["report_<date>.md"]),
        (Bench::new(), ["report.md"]),
    ] {
        let model = Native::new(|_| -> Calls { vec![finish()] });
        let outcome = bench.drive(&model, planned(&phase_with(&outputs))).await;
        assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
        assert!(!bench.names().concat().contains(&"StepStarted".to_owned()));
    }
}

fn done() -> (&'static str, Value) {
    ("task_complete", json!({"summary": "all done"}))
}

fn phases_with(outputs: &[&[&str]]) -> Value {
    let phases: Vec<Value> = (1..)
        .zip(outputs)
        .map(|(n, outputs): (u32, _)| json!({"phase_number": n, "name": "p", "expected_outputs": outputs}))
        .collect();
    json!({"goal": "g", "total_estimated_credits": 0, "phases": phases})
}

#[tokio::test]
async fn a_task_without_the_files_of_its_open_phases_is_sent_back_once() {
    let bench = checking();
    let file = |path: &str| ("file_write", json!({"filepath": path, "content": "x"}));
    let model = Native::new(move |number| -> Calls {
        match number {
            // What stands behind the end is not carried out.
            1 => vec![
                file("a.md"),
                ("phase_complete", json!({})),
                done(),
                file("late.md"),
            ],
            2 => vec![file("b.md"), file("out/c.md"), done()],
            _ => vec![],
        }
    });
    let plan = phases_with(&[
        &["a.md"],
        &["b.md", "words only"],
        &["/workspace/out/c.md", "b.md"],
    ]);
    let outcome = bench.drive(&model, planned(&plan)).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let told: Vec<Value> = events(&bench, "outputs_missing").collect();
    assert_eq!(
        told,
        [json!({"event": "outputs_missing", "phase": 2, "missing": ["b.md", "out/c.md"], "taken": false})]
    );
    let request = model.last_request();
    assert!(
        request.contains("The task is not done, expected outputs do not exist: b.md, out/c.md. Make them"),
        "{request}"
    );
    let changes = format!("{:?}", bench.log.changes());
    assert!(bench.workspace.read("late.md").await.is_err());
    let steps = bench.names().concat();
    let begun = steps.iter().filter(|name| *name == "StepStarted").count();
    assert_eq!(
        begun, 5,
        "three files, the phase, and the end that was refused: {steps:?}"
    );
    assert_eq!(bench.names().last().unwrap(), &["MessageAdded", "Log", "Status"]);
    assert!(changes.contains("all done") && changes.contains("Task completed successfully"));
}

#[tokio::test]
async fn a_model_that_insists_ends_the_task_with_a_warning() {
    let bench = checking();
    let model = Native::new(|_| -> Calls { vec![done()] });
    let outcome = bench.drive(&model, planned(&phase_with(&["report.md"]))).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let taken: Vec<Value> = events(&bench, "outputs_missing")
        .map(|told| told["taken"].clone())
        .collect();
    assert_eq!(taken, [json!(false), json!(true)]);
    assert_eq!(
        bench.names().last().unwrap(),
        &["Log", "MessageAdded", "Log", "Status"]
    );
    assert!(format!("{:?}", bench.log.changes()).contains("Task ended without its expected outputs"));
}

#[tokio::test]
async fn the_end_of_a_task_that_is_not_checked_takes_one_commit_and_no_step() {
    for (bench, outputs) in [
        (checking(), ["a report, e.g. on sales"]),
        (Bench::new(), ["report.md"]),
    ] {
        let model = Native::new(|_| -> Calls { vec![done()] });
        let outcome = bench.drive(&model, planned(&phase_with(&outputs))).await;
        assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
        assert_eq!(
            bench.names(),
            [vec!["TurnStored", "MessageAdded", "Log", "Status"]]
        );
    }
}

/// As it is left by a worker that was lost before the end of the task was looked at, or after it was refused.
#[tokio::test]
async fn a_task_taken_over_before_its_end_is_looked_at_again_and_one_that_was_refused_is_not_asked_twice() {
    let ends = json!({"type": "tool", "tool_name": "task_complete", "tool_input": {"summary": null}});
    let mut left = planned(&phase_with(&["report.md"]));
    left.turns = vec![Turn {
        number: 1,
        actions: vec![serde_json::from_value(ends).unwrap()],
        raw: json!({"text": "x"}),
        fault: None,
    }];
    let model = ListModel::new(&plan(1), &[json!(null), json!({"type": "task_complete"})]);
    let bench = checking();
    let outcome = bench.drive(&model, left.clone()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    assert_eq!(bench.names()[0], ["StepStarted", "StepSettled", "Log"]);
    let result = bench.log.changes().into_iter().find_map(|change| match change {
        Change::StepSettled { result, .. } => Some(result),
        _ => None,
    });
    left.steps = vec![StoredStep {
        id: step_id(left.run_id, 1, 0),
        turn: 1,
        action: 0,
        status: StepStatus::Failed,
        result,
        started_here: false,
    }];
    let bench = checking();
    assert_eq!(
        bench.drive(&model, left).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(bench.names(), [vec!["TurnStored"], vec!["Log", "Log", "Status"]]);
}

/// A tool that says a lot.
struct Talkative;

impl RemoteTools for Talkative {
    fn specs(&self) -> Vec<ToolSpec> {
        vec![]
    }

    fn labels_of(&self, _: &str, _: &Value) -> domain::Labels {
        domain::Labels::default()
    }

    fn effect_of(&self, tool_name: &str, _: &Value) -> Option<Effect> {
        (tool_name == "talk").then_some(Effect::Idempotent)
    }

    async fn call(&self, _: &Call<'_>, _: &CancellationToken) -> Result<ToolResult, ToolError> {
        let text = "a word and another\n".repeat(5_000);
        Ok(ToolResult::ok(json!({"text": text, "code": 0}), 0.0))
    }
}

#[tokio::test]
async fn an_output_too_long_for_the_model_is_kept_whole_as_one_file_that_the_model_is_told_of() {
    let bench = Bench::new();
    let model = Native::new(|number| -> Calls {
        match number {
            1 => vec![("talk", json!({}))],
            2 => vec![("file_list", json!({}))],
            _ => vec![("task_complete", json!({}))],
        }
    });
    let outcome = bench.drive_with(&model, &Talkative, planned(&plan(1))).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let artifacts = bench.log.changes().into_iter().find_map(|change| match change {
        Change::StepSettled { result, .. } if !result.artifacts.is_empty() => Some(result),
        _ => None,
    });
    let result = artifacts.unwrap();
    assert_eq!(result.artifacts.len(), 1);
    assert_eq!(
        result.output["text"].as_str().unwrap().len(),
        95_000,
        "the step keeps the whole"
    );
    let kept = &result.artifacts[0];
    assert_eq!(
        (kept.file_path.as_str(), kept.file_size),
        ("outputs/step-1-0-talk.txt", 95_000)
    );
    assert_eq!(result.changes.len(), 1);
    let request = model.last_request();
    let told = format!(
        "The whole is in the file outputs/step-1-0-talk.txt (95000 bytes, sha256 {})",
        kept.content_hash
    );
    assert!(request.contains(&told), "{request}");
    assert!(model.largest.load(Ordering::Relaxed) < 10_000);
}
