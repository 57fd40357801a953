//! Calls that can never be done: refused at once, asked about never, and no reason to ask about others.

use super::gated::{Gated, World};
use super::*;
use agent::ports::Workspace as _;
use domain::interrupt::InterruptDecision;

fn call(tool: &str, input: &Value) -> Value {
    json!({"type": "tool", "tool_name": tool, "tool_input": input})
}

fn opens_issue() -> Value {
    call(
        "connector",
        &json!({"connector_type": "github", "operation": "create_issue"}),
    )
}

/// Drives a run through these calls, one per turn.
async fn driven(world: World, policy: &Value, calls: &[Value]) -> (Gated, Outcome) {
    let mut run = Gated::new(world, policy);
    let done = json!({"type": "task_complete"});
    let actions: Vec<Value> = calls.iter().cloned().chain([done]).collect();
    let model = ListModel::new(&plan(1), &actions);
    let outcome = run.drive(&model).await;
    (run, outcome)
}

fn refused(run: &Gated) -> Vec<bool> {
    let results = run.run.steps.iter().filter_map(|step| step.result.as_ref());
    results.map(|result| result.refused).collect()
}

const COMPLETED: Outcome = Outcome::Finished(RunStatus::Completed);

#[tokio::test]
async fn a_call_that_can_never_be_done_is_refused_without_asking() {
    let policy = json!({"default": "ask"});
    let world = World {
        missing: vec!["search", "connector"],
        ..World::default()
    };
    let calls = [
        call("search", &json!({"query": "x"})),
        opens_issue(),
        call("shell", &json!({"command": " "})),
        call("code", &json!({"language": "cobol", "code": "x"})),
        call("file_read", &json!({})),
        call("nope", &json!({})),
    ];
    let (run, outcome) = driven(world, &policy, &calls[..4]).await;
    assert_eq!(outcome, COMPLETED, "{:?}", run.errors());
    assert_eq!((run.open(), run.calls().len()), (0, 0));
    assert_eq!(
        run.errors()[..3],
        [
            "search is not configured: set A_KEY",
            "connector is not configured: set A_KEY",
            "Invalid input: command cannot be empty",
        ]
    );
    let (run, outcome) = driven(World::default(), &policy, &calls[4..]).await;
    assert_eq!(outcome, COMPLETED, "{:?}", run.errors());
    assert_eq!(
        run.errors(),
        ["Invalid input: filepath is missing", "Unknown tool: nope"]
    );
    assert_eq!(refused(&run), [true, true]);
}

#[tokio::test]
async fn a_call_that_was_refused_has_read_nothing() {
    let world = World {
        missing: vec!["search"],
        ..World::default()
    };
    let calls = [
        call("search", &json!({"query": "x"})),
        call("shell", &json!({"command": ""})),
        opens_issue(),
    ];
    let (run, outcome) = driven(world, &json!({}), &calls).await;
    assert_eq!(outcome, COMPLETED, "{:?}", run.opened);
    assert_eq!(run.calls().len(), 1);
    assert_eq!(refused(&run), [true, true, false]);
    // What the policy denied was not read either.
    let calls = [call("shell", &json!({"command": "ls"})), opens_issue()];
    let (run, outcome) = driven(World::default(), &json!({"shell": "deny"}), &calls).await;
    assert_eq!((outcome, run.open()), (COMPLETED, 0));
}

#[tokio::test]
async fn an_answer_that_looks_like_a_refusal_is_none() {
    let world = World {
        imitates: vec!["search"],
        ..World::default()
    };
    let calls = [call("search", &json!({"query": "x"})), opens_issue()];
    let (mut run, outcome) = driven(world, &json!({}), &calls).await;
    assert_eq!((outcome, run.open()), (Outcome::Waiting, 1));
    assert_eq!(run.errors(), ["search is not configured: set A_KEY"]);
    // The next worker, where the tool is not set up, decides by what was stored and not by what it knows.
    run.run.status = RunStatus::Executing;
    run.run.gate.interrupts.clear();
    run.world.missing.push("search");
    let model = ListModel::new(&plan(1), &[]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert!(run.calls().is_empty());
}

#[tokio::test]
async fn a_refused_call_stays_harmless_when_the_next_worker_could_make_it() {
    let world = World {
        missing: vec!["search"],
        ..World::default()
    };
    let asks = json!({"type": "request_input", "message": "Go on?"});
    let calls = [call("search", &json!({"query": "x"})), asks];
    let (mut run, outcome) = driven(world, &json!({}), &calls).await;
    assert_eq!(outcome, Outcome::Waiting);
    run.decide(InterruptDecision::Answer, &json!({"answer": "yes"}));
    run.hear("yes");
    run.world.missing.clear();
    let done = json!({"type": "task_complete"});
    let model = ListModel::new(
        &plan(1),
        &[calls[0].clone(), calls[1].clone(), opens_issue(), done],
    );
    assert_eq!(run.drive(&model).await, COMPLETED, "{:?}", run.opened);
    assert_eq!(run.calls().len(), 1);
}

#[tokio::test]
async fn what_the_run_wrote_itself_before_it_read_a_stranger_is_its_own_word() {
    let write = call("file_write", &json!({"filepath": "note.txt", "content": "mine"}));
    let read = call("file_read", &json!({"filepath": "note.txt"}));
    let calls = [write.clone(), read.clone(), opens_issue()];
    let (run, outcome) = driven(World::default(), &json!({}), &calls).await;
    assert_eq!((outcome, run.open()), (COMPLETED, 0), "{:?}", run.opened);
    // Another content under the same name.
    let mut run = Gated::new(World::default(), &json!({}));
    run.workspace.write("other.txt", "theirs".into()).await.unwrap();
    let other = call("file_read", &json!({"filepath": "other.txt"}));
    let model = ListModel::new(&plan(1), &[write.clone(), other, opens_issue()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    // Written after a stranger was read: it may be the stranger's word.
    let calls = [call("search", &json!({"query": "x"})), write, read, opens_issue()];
    let (run, outcome) = driven(World::default(), &json!({}), &calls).await;
    assert_eq!((outcome, run.open()), (Outcome::Waiting, 1));
}
