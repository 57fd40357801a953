//! U+0000 from a model or a file: the run goes on, nothing is carried out with an altered input.

use super::{Bench, ListModel, plan, snapshot};
use agent::driver::Outcome;
use agent::ports::Workspace as _;
use agent::snapshot::Snapshot;
use domain::{Change, Plan, RunStatus, Storable as _, ToolResult, Turn};
use serde_json::{Value, json};

const COMPLETED: Outcome = Outcome::Finished(RunStatus::Completed);

fn tool(name: &str, input: Value) -> Value {
    json!({"type": "tool", "tool_name": name, "tool_input": input})
}

fn results(bench: &Bench) -> Vec<ToolResult> {
    let result = |change: &Change| match change {
        Change::StepSettled { result, .. } => Some(result.clone()),
        _ => None,
    };
    bench.log.changes().iter().filter_map(result).collect()
}

fn errors(bench: &Bench) -> Vec<String> {
    let results = results(bench);
    results
        .into_iter()
        .map(|result| result.error.unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn calls_with_a_zero_character_are_refused_and_say_what_to_do() {
    let bench = Bench::new();
    let mut with_nul = plan(1);
    with_nul["goal"] = json!("g\0");
    with_nul["phases"][0]["expected_outputs"] = json!(["o\0"]);
    let model = ListModel::new(
        &with_nul,
        &[
            tool("file_write", json!({"filepath": "a\0b", "content": "x"})),
            tool("file_write", json!({"filepath": "c", "content": "a\0b"})),
            tool("message", json!({"message": "a\0b"})),
            tool("message", json!({"message": "good"})),
            json!([
                tool("file_read", json!({"filepath": "\0"})),
                tool("file_list", json!({"dirpath": "d\0"}))
            ]),
            tool("ask_user", json!({"question": "a\0?"})),
            json!({"type": "message", "message": "a\0b", "reasoning": "r\0"}),
            json!({"type": "task_complete", "message": "done\0"}),
        ],
    );
    assert_eq!(bench.drive(&model, snapshot()).await, COMPLETED);
    let said = "holds U+0000, which cannot be stored; leave it out, or make that byte in the sandbox, for example with \
                printf '\\000' in shell";
    assert_eq!(
        errors(&bench),
        [
            "Invalid path: a\u{fffd}b".to_owned(),
            format!("Invalid input: content {said}"),
            format!("Invalid input: message {said}"),
            String::new(),
            "Invalid path: \u{fffd}".to_owned(),
            "Invalid path: d\u{fffd}".to_owned(),
            format!("Invalid input: question {said}"),
        ]
    );
    assert!(bench.workspace.list("").await.unwrap().is_empty());
    assert!(results(&bench).iter().all(|result| result.credits_used == 0.0));
    for change in bench.log.changes() {
        assert_eq!(change.clone().storable(), change, "memory and store see the same");
    }
    let told = bench.log.changes().into_iter().filter_map(|change| match change {
        Change::MessageAdded(message) => Some(message.content),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), ["good", "a\u{fffd}b", "done\u{fffd}"]);
}

#[tokio::test]
async fn a_take_over_refuses_what_was_refused_though_the_stored_input_looks_harmless() {
    let first = Bench::new();
    let call = tool("file_write", json!({"filepath": "a", "content": "x\0"}));
    first.drive(&ListModel::new(&plan(1), &[call]), snapshot()).await;
    let stored = first.log.changes().into_iter().find_map(|change| match change {
        Change::TurnStored { turn, .. } if turn.number == 1 => Some(turn),
        _ => None,
    });
    // The worker was lost right after the reply: all that is left of it is what the store holds.
    let kept = serde_json::to_string(&stored.unwrap()).unwrap();
    let turn: Turn = serde_json::from_str(&kept).unwrap();
    assert_eq!(
        turn.actions[0].tool_input.as_ref().unwrap()["content"],
        "x\u{fffd}"
    );
    let taken_over = Snapshot {
        status: RunStatus::Executing,
        plan: Some(Plan::from_value(&plan(1)).unwrap()),
        current_phase: 1,
        turns: vec![turn],
        ..snapshot()
    };
    let second = Bench::new();
    let model = ListModel::new(&plan(1), &[Value::Null, json!({"type": "task_complete"})]);
    assert_eq!(second.drive(&model, taken_over).await, COMPLETED);
    assert!(errors(&second)[0].starts_with("Invalid input: content holds U+0000"));
    assert!(second.workspace.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_with_zero_characters_is_read_with_marks_in_their_place() {
    let bench = Bench::new();
    bench.workspace.write("n.txt", "a\0b".into()).await.unwrap();
    bench.workspace.write("t.txt", "a\u{fffd}b".into()).await.unwrap();
    let read = |name: &str| tool("file_read", json!({"filepath": name}));
    let model = ListModel::new(
        &plan(1),
        &[read("n.txt"), read("t.txt"), json!({"type": "task_complete"})],
    );
    assert_eq!(bench.drive(&model, snapshot()).await, COMPLETED);
    let outputs: Vec<Value> = results(&bench).into_iter().map(|result| result.output).collect();
    assert_eq!(
        outputs,
        [
            json!({"content": "a\u{fffd}b", "filepath": "n.txt",
                "note": "The file holds U+0000; each is shown as U+FFFD."}),
            json!({"content": "a\u{fffd}b", "filepath": "t.txt"}),
        ]
    );
}
