//! The driver against the ports in memory, with a model that answers from a list.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod approvals;
mod budgets;
mod capacity;
mod gated;
mod injection;
mod long_runs;
mod nul;
mod refusals;
mod steering;

use agent::driver::{Driver, OnUnknown, Outcome};
use agent::memory::{MemoryLog, MemoryWorkspace, NoSandbox};
use agent::ports::{
    CallWatch, CommitError, Model, ModelError, ModelReply, ModelRequest, NoRemoteTools, Purpose, RemoteTools,
    StopReason, ToolSpec,
};
use agent::snapshot::{Snapshot, StoredStep, step_id};
use agent::supervisor::Limits;
use agent::tools::{Call, Router, ToolError};
use domain::run::StepStatus;
use domain::waiting::RetryCause;
use domain::{Change, Effect, ManualClock, Plan, RunId, RunStatus, ToolResult, Turn, Usage};
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Answers planning with `plan` and turn n with `turns[n - 1]`; remembers what it was asked.
struct ListModel {
    plan: String,
    turns: Vec<Result<String, &'static str>>,
    asked: Mutex<Vec<Purpose>>,
}

impl ListModel {
    fn new(plan: &Value, turns: &[Value]) -> Self {
        let turns = turns.iter().map(|turn| Ok(turn.to_string())).collect();
        Self {
            plan: plan.to_string(),
            turns,
            asked: Mutex::default(),
        }
    }
}

fn reply(text: &str) -> ModelReply {
    ModelReply {
        text: Some(text.to_owned()),
        tool_calls: vec![],
        stop: StopReason::End,
        usage: Usage {
            input_tokens: 3,
            output_tokens: 2,
            ..Usage::default()
        },
        model: "list".to_owned(),
        provider: "test".to_owned(),
    }
}

impl Model for ListModel {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        _: &dyn CallWatch,
        _: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        self.asked.lock().unwrap().push(request.purpose);
        match request.purpose {
            Purpose::Plan { .. } => Ok(reply(&self.plan)),
            Purpose::Turn { number } => match self.turns.get(number as usize - 1) {
                Some(Ok(text)) => Ok(reply(text)),
                Some(Err("transient")) => Err(ModelError::Transient {
                    message: "overloaded".to_owned(),
                    status: Some(529),
                    retry_after: Some(std::time::Duration::from_secs(7)),
                    try_again_here: true,
                }),
                _ => Err(ModelError::Permanent {
                    message: "bad key".to_owned(),
                    status: Some(401),
                }),
            },
        }
    }

    fn identity(&self) -> (String, String) {
        ("test".to_owned(), "list".to_owned())
    }
}

fn plan(phases: u32) -> Value {
    let phases: Vec<Value> = (1..=phases)
        .map(|n| json!({"phase_number": n, "name": "p"}))
        .collect();
    json!({"goal": "g", "total_estimated_credits": 0, "phases": phases})
}

fn snapshot() -> Snapshot {
    Snapshot {
        run_id: RunId(Uuid::from_u128(9)),
        user_id: "u".into(),
        status: RunStatus::Planning,
        prompt: "do it".to_owned(),
        connector_ids: vec![],
        plan: None,
        current_phase: 0,
        turns: vec![],
        steps: vec![],
        user_messages: vec![],
        gate: agent::gate::Gate::default(),
        attempt: 1,
    }
}

/// A system outside with one tool that must not be repeated; it may be unreachable or lose its answer.
#[derive(Default)]
struct Counter {
    calls: Mutex<Vec<(String, i64)>>,
    fault: Option<fn() -> ToolError>,
}

impl RemoteTools for Counter {
    fn specs(&self) -> Vec<ToolSpec> {
        vec![]
    }

    fn labels_of(&self, _: &str, _: &Value) -> domain::Labels {
        domain::Labels::default()
    }

    fn effect_of(&self, tool_name: &str, _: &Value) -> Option<Effect> {
        (tool_name == "once").then_some(Effect::AtMostOnce)
    }

    async fn call(&self, call: &Call<'_>, _: &CancellationToken) -> Result<ToolResult, ToolError> {
        if let Some(fault) = self.fault {
            return Err(fault());
        }
        let key = (call.idempotency_key.to_owned(), call.epoch);
        self.calls.lock().unwrap().push(key);
        Ok(ToolResult::ok(json!({"count": 1}), 0.0))
    }
}

struct Bench {
    log: MemoryLog,
    workspace: MemoryWorkspace,
    soft: CancellationToken,
    pause: CancellationToken,
    cancel: CancellationToken,
    on_unknown: OnUnknown,
    remote: Counter,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        Self {
            log: MemoryLog::default(),
            workspace: MemoryWorkspace::default(),
            soft: CancellationToken::new(),
            pause: CancellationToken::new(),
            cancel: CancellationToken::new(),
            on_unknown: OnUnknown::Ask,
            remote: Counter::default(),
            limits: Limits::default(),
        }
    }

    async fn drive<M: Model>(&self, model: &M, snapshot: Snapshot) -> Outcome {
        self.drive_with(model, &self.remote, snapshot).await
    }

    async fn drive_with<M: Model, R: RemoteTools>(
        &self,
        model: &M,
        remote: &R,
        snapshot: Snapshot,
    ) -> Outcome {
        let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
        let driver = Driver {
            model,
            tools: Router {
                workspace: &self.workspace,
                sandbox: &NoSandbox,
                remote,
            },
            log: &self.log,
            clock: &clock,
            limits: self.limits,
            on_unknown: self.on_unknown,
            epoch: 7,
            withheld: Mutex::default(),
            soft: self.soft.clone(),
            pause: self.pause.clone(),
            cancel: self.cancel.clone(),
        };
        driver.drive(snapshot).await
    }

    fn names(&self) -> Vec<Vec<String>> {
        let name = |change: &Change| {
            let text = format!("{change:?}");
            text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
        };
        self.log
            .commits()
            .iter()
            .map(|commit| commit.iter().map(name).collect())
            .collect()
    }
}

fn write(path: &str) -> Value {
    json!({"type": "tool", "tool_name": "file_write", "tool_input": {"filepath": path, "content": "x"}})
}

#[tokio::test]
async fn a_run_is_planned_worked_through_and_completed_in_few_commits() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(1), &[write("a.txt"), json!({"type": "task_complete"})]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(
        bench.names(),
        [
            vec!["TurnStored", "PlanStored", "Status"],
            vec!["TurnStored", "StepStarted"],
            vec!["StepSettled"],
            vec!["TurnStored", "Log", "Status"],
        ]
    );
}

#[tokio::test]
async fn a_run_whose_user_has_no_credits_left_fails_before_its_next_turn() {
    let bench = Bench::new();
    bench.log.pay_for(1);
    let model = ListModel::new(&plan(1), &[write("a.txt"), json!({"type": "task_complete"})]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Failed)
    );
    let asked = model.asked.lock().unwrap().clone();
    assert_eq!(
        asked.last(),
        Some(&Purpose::Turn { number: 1 }),
        "nobody is asked for turn 2"
    );
    assert_eq!(bench.names().last().unwrap(), &["Log", "Status"]);
    assert!(format!("{:?}", bench.log.changes()).contains("Insufficient credits to continue"));
}

#[tokio::test]
async fn a_bad_plan_is_asked_for_again_twice_and_then_the_run_fails_with_the_fault() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(0), &[]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Failed)
    );
    assert_eq!(model.asked.lock().unwrap().len(), 3);
    assert!(format!("{:?}", bench.log.changes()).contains("Planning failed: a plan needs 1 to 15 phases"));
}

#[tokio::test]
async fn a_take_over_runs_the_open_step_again_under_its_id_and_asks_for_no_stored_turn() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(1), &[json!(null), json!({"type": "task_complete"})]);
    let mut taken = snapshot();
    taken.status = RunStatus::Executing;
    taken.plan = Some(Plan::from_value(&plan(1)).unwrap());
    let action = serde_json::from_value(write("a.txt")).unwrap();
    taken.turns = vec![Turn {
        number: 1,
        actions: vec![action],
        raw: json!({"text": "x"}),
        fault: None,
    }];
    let id = step_id(taken.run_id, 1, 0);
    let status = StepStatus::Running;
    taken.steps = vec![StoredStep {
        id,
        turn: 1,
        action: 0,
        status,
        result: None,
        started_here: false,
    }];
    assert_eq!(
        bench.drive(&model, taken).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(*model.asked.lock().unwrap(), [Purpose::Turn { number: 2 }]);
    assert_eq!(bench.log.changes()[0], Change::StepRestarted { step_id: id });
}

#[tokio::test]
async fn a_settled_step_is_never_run_again() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(1), &[json!(null), json!({"type": "task_complete"})]);
    let mut taken = snapshot();
    taken.plan = Some(Plan::from_value(&plan(1)).unwrap());
    let action = serde_json::from_value(write("a.txt")).unwrap();
    taken.turns = vec![Turn {
        number: 1,
        actions: vec![action],
        raw: json!({"text": "x"}),
        fault: None,
    }];
    let result = Some(ToolResult::ok(json!({}), 1.0));
    let (id, status) = (step_id(taken.run_id, 1, 0), StepStatus::Completed);
    taken.steps = vec![StoredStep {
        id,
        turn: 1,
        action: 0,
        status,
        result,
        started_here: false,
    }];
    assert_eq!(
        bench.drive(&model, taken).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert!(!format!("{:?}", bench.log.changes()).contains("Step"));
}

/// Of the turn only what has happened is stored; the question is asked by whoever goes on after the resume.
#[tokio::test]
async fn a_question_that_meets_a_pause_is_asked_after_the_resume() {
    let asks = json!({"type": "request_input", "message": "which colour?"});
    let model = ListModel::new(&plan(1), &[asks]);
    let mut run = snapshot();
    run.status = RunStatus::Executing;
    run.plan = Some(Plan::from_value(&plan(1)).unwrap());
    let bench = Bench::new();
    bench.log.refuse(CommitError::Paused);
    assert_eq!(bench.drive(&model, run.clone()).await, Outcome::Paused);
    assert_eq!(bench.names(), [vec!["TurnStored"]]);
    let stored = bench.log.changes().into_iter().find_map(|change| match change {
        Change::TurnStored { turn, .. } => Some(turn),
        _ => None,
    });
    run.turns.extend(stored);
    let resumed = Bench::new();
    assert_eq!(resumed.drive(&model, run).await, Outcome::Waiting);
    assert_eq!(
        resumed.names(),
        [vec!["InputRequested", "InterruptOpened", "Waiting", "Status"]]
    );
    assert_eq!(
        model.asked.lock().unwrap().len(),
        1,
        "the model is not asked again"
    );
}

/// A run that is paused just before a step settles.
struct PauseAtSettle<'a>(&'a MemoryLog);
impl agent::ports::RunLog for PauseAtSettle<'_> {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let paused = changes
            .iter()
            .any(|change| matches!(change, Change::StepSettled { .. }));
        if paused && changes.iter().any(|change| !change.allowed_while_paused()) {
            return Err(CommitError::Paused);
        }
        self.0.commit(changes).await
    }

    fn is_held(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_pause_in_the_middle_of_a_step_keeps_its_result_and_moves_on_no_further() {
    let bench = Bench::new();
    let both = json!([write("a.txt"), {"type": "task_complete"}]);
    let model = ListModel::new(&plan(1), &[both]);
    let mut executing = snapshot();
    executing.plan = Some(Plan::from_value(&plan(1)).unwrap());
    // The turn and its step start; then the settle meets a paused run.
    let log = PauseAtSettle(&bench.log);
    let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
    let driver = Driver {
        model: &model,
        tools: Router {
            workspace: &bench.workspace,
            sandbox: &NoSandbox,
            remote: &NoRemoteTools,
        },
        log: &log,
        clock: &clock,
        limits: Limits::default(),
        on_unknown: OnUnknown::Ask,
        epoch: 7,
        withheld: Mutex::default(),
        soft: CancellationToken::new(),
        pause: CancellationToken::new(),
        cancel: CancellationToken::new(),
    };
    assert_eq!(driver.drive(executing).await, Outcome::Paused);
    assert_eq!(
        bench.names(),
        [vec!["TurnStored", "StepStarted"], vec!["StepSettled"]]
    );
}

#[tokio::test]
async fn model_failures_become_a_retry_or_the_end() {
    let bench = Bench::new();
    let mut model = ListModel::new(&plan(1), &[]);
    model.turns = vec![Err("transient")];
    let outcome = bench.drive(&model, snapshot()).await;
    let Outcome::Retry {
        error,
        cause: RetryCause::ModelLimit,
        retry_after,
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert!(error.contains("overloaded") && retry_after == Some(std::time::Duration::from_secs(7)));
    model.turns = vec![Err("permanent")];
    let outcome = Bench::new().drive(&model, snapshot()).await;
    assert_eq!(
        outcome,
        Outcome::PermanentError {
            error: "model call refused: bad key".to_owned()
        }
    );
}

#[tokio::test]
async fn shutdown_hands_back_a_pause_begins_nothing_and_a_lost_lease_writes_nothing() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(1), &[json!({"type": "task_complete"})]);
    bench.soft.cancel();
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::HandedBack);
    let bench = Bench::new();
    bench.pause.cancel();
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::Paused);
    let bench = Bench::new();
    bench.cancel.cancel();
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::LeaseLost);
    assert!(bench.log.commits().is_empty());
    let bench = Bench::new();
    bench.log.refuse(CommitError::Ended(RunStatus::Cancelled));
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::EndedElsewhere);
}

#[tokio::test]
async fn tools_that_are_unknown_or_misused_answer_the_model() {
    let tool = |name: &str, input: Value| json!({"type": "tool", "tool_name": name, "tool_input": input});
    let calls = [
        (tool("dance", json!({})), "Unknown tool: dance"),
        (tool("file_read", json!({})), "Invalid input: filepath is missing"),
        (
            tool("shell", json!({"command": "ls"})),
            "not configured: set TOOL_EXECUTOR",
        ),
        (tool("file_read", json!({"filepath": "no"})), "File not found: no"),
    ];
    for (call, error) in calls {
        let bench = Bench::new();
        let model = ListModel::new(&plan(1), &[call, json!({"type": "task_complete"})]);
        assert_eq!(
            bench.drive(&model, snapshot()).await,
            Outcome::Finished(RunStatus::Completed)
        );
        let text = format!("{:?}", bench.log.changes());
        assert!(text.contains(error), "{error} not in {text}");
    }
}

fn once() -> Value {
    json!({"type": "tool", "tool_name": "once", "tool_input": {"n": 1}})
}

/// A run whose first turn calls `once`, with the step as another claim left it.
fn left_in_the_middle(status: StepStatus) -> (ListModel, Snapshot) {
    let action = serde_json::from_value(once()).unwrap();
    let mut left = snapshot();
    left.status = RunStatus::Executing;
    left.plan = Some(Plan::from_value(&plan(1)).unwrap());
    left.turns = vec![Turn {
        number: 1,
        actions: vec![action],
        raw: Value::Null,
        fault: None,
    }];
    left.steps = vec![StoredStep {
        id: step_id(left.run_id, 1, 0),
        turn: 1,
        action: 0,
        status,
        result: None,
        started_here: false,
    }];
    let model = ListModel::new(&plan(1), &[once(), json!({"type": "task_complete"})]);
    (model, left)
}

#[tokio::test]
async fn a_call_that_must_not_be_repeated_is_asked_about_after_a_lost_worker_and_not_called() {
    let (model, left) = left_in_the_middle(StepStatus::Running);
    let bench = Bench::new();
    let id = left.steps[0].id;
    assert_eq!(bench.drive(&model, left).await, Outcome::Waiting);
    assert!(bench.remote.calls.lock().unwrap().is_empty());
    let asked = bench.names();
    assert_eq!(asked, [vec!["StepUnknown", "Log", "Waiting", "Status"]]);
    let waiting = bench.log.changes().into_iter().find_map(|change| match change {
        Change::Waiting(what) => what,
        _ => None,
    });
    let waiting = waiting.unwrap();
    assert_eq!(waiting["kind"], "effect_unknown");
    assert_eq!(waiting["step_id"], json!(id));
    assert_eq!(waiting["tool_name"], "once");
    assert_eq!(waiting["tool_input"], json!({"n": 1}));
}

#[tokio::test]
async fn the_model_can_be_told_of_an_unknown_outcome_instead() {
    let (model, left) = left_in_the_middle(StepStatus::Running);
    let bench = Bench {
        on_unknown: OnUnknown::TellModel,
        ..Bench::new()
    };
    assert_eq!(
        bench.drive(&model, left).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert!(bench.remote.calls.lock().unwrap().is_empty());
    let text = format!("{:?}", bench.log.changes());
    assert!(
        text.contains("Outcome unknown: worker was lost during the call"),
        "{text}"
    );
}

#[tokio::test]
async fn a_call_its_user_wants_repeated_goes_out_with_the_same_key_and_a_new_epoch() {
    let (model, left) = left_in_the_middle(StepStatus::Pending);
    let key = format!("{}:1:0", left.run_id);
    let bench = Bench::new();
    assert_eq!(
        bench.drive(&model, left).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(*bench.remote.calls.lock().unwrap(), [(key, 7)]);
    assert_eq!(bench.names()[0], ["StepRestarted"]);
}

#[tokio::test]
async fn a_lost_answer_is_asked_about_and_a_call_that_was_never_sent_is_tried_again() {
    let turns = [once(), json!({"type": "task_complete"})];
    let mut bench = Bench::new();
    bench.remote.fault = Some(|| ToolError::Unknown("no answer".to_owned()));
    let outcome = bench.drive(&ListModel::new(&plan(1), &turns), snapshot()).await;
    assert_eq!(outcome, Outcome::Waiting);
    let mut bench = Bench::new();
    bench.remote.fault = Some(|| ToolError::Retry("connection refused".to_owned()));
    let outcome = bench.drive(&ListModel::new(&plan(1), &turns), snapshot()).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    let last = bench.names().pop().unwrap();
    assert_eq!(last, ["StepReset"], "the next attempt asks nobody");
}

#[tokio::test]
async fn a_call_that_must_not_be_repeated_is_claimed_in_a_commit_of_its_own_right_before_it() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(1), &[once(), json!({"type": "task_complete"})]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    let names = bench.names();
    assert!(names.contains(&vec!["StepStarted".to_owned()]), "{names:?}");
}

#[tokio::test]
async fn a_worker_whose_lease_may_have_run_out_begins_nothing_outside() {
    let bench = Bench::new();
    bench.log.lose();
    let model = ListModel::new(&plan(1), &[once(), json!({"type": "task_complete"})]);
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::LeaseLost);
    assert!(bench.remote.calls.lock().unwrap().is_empty());
}

fn say(text: &str) -> Value {
    json!({"type": "tool", "tool_name": "message", "tool_input": {"message": text}})
}

#[tokio::test]
async fn a_message_is_settled_in_the_commit_that_asks_for_it_and_the_next_tool_starts_there() {
    let bench = Bench::new();
    let all = json!([say("one"), write("a.txt"), say("two"), {"type": "task_complete"}]);
    let model = ListModel::new(&plan(1), &[all]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(
        bench.names()[1..],
        [
            vec![
                "TurnStored",
                "StepStarted",
                "StepSettled",
                "MessageAdded",
                "StepStarted"
            ],
            vec![
                "StepSettled",
                "StepStarted",
                "StepSettled",
                "MessageAdded",
                "Log",
                "Status"
            ],
        ]
    );
}

#[tokio::test]
async fn messages_that_fail_count_as_failing_steps_in_one_commit_too() {
    let bench = Bench::new();
    let misused = json!({"type": "tool", "tool_name": "message", "tool_input": {}});
    let model = ListModel::new(
        &plan(1),
        &[json!([misused, misused, misused, misused, misused, misused])],
    );
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Failed)
    );
    let turn = &bench.names()[1];
    assert_eq!(turn.iter().filter(|name| *name == "StepSettled").count(), 5);
    assert_eq!(turn.last().map(String::as_str), Some("Status"));
}

#[tokio::test]
async fn a_paused_run_takes_no_message_that_its_turn_asked_for() {
    let bench = Bench::new();
    let model = ListModel::new(&plan(1), &[json!([say("one"), {"type": "task_complete"}])]);
    let mut executing = snapshot();
    executing.plan = Some(Plan::from_value(&plan(1)).unwrap());
    bench.log.refuse(CommitError::Paused);
    assert_eq!(bench.drive(&model, executing).await, Outcome::Paused);
    assert_eq!(bench.names(), [vec!["TurnStored"]]);
}
