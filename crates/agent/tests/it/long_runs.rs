//! Runs longer than the model's view, and runs that repeat themselves. The model here answers by turn number and checks every
//! request it gets.

use super::*;
use agent::context::tokens_of;
use agent::ports::{ChatMessage, ToolUse};
use domain::interrupt::{InterruptStatus, KnownInterrupt};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers turn n with the calls that `script` gives for it, natively; keeps the largest request it saw.
pub(super) struct Native<F> {
    script: F,
    pub(super) largest: AtomicUsize,
    pub(super) last: Mutex<Vec<ChatMessage>>,
    /// Requests that did not begin as the one before.
    pub(super) fresh_starts: AtomicUsize,
}

impl<F> Native<F> {
    pub(super) fn new(script: F) -> Self {
        Self {
            script,
            largest: AtomicUsize::new(0),
            last: Mutex::default(),
            fresh_starts: AtomicUsize::new(0),
        }
    }

    pub(super) fn last_request(&self) -> String {
        format!("{:?}", self.last.lock().unwrap())
    }
}

/// A call as the model makes it; its id is made of turn and place.
pub(super) type Calls = Vec<(&'static str, Value)>;

/// Every result follows the message with its call, every call has its result, in order.
fn assert_paired(messages: &[ChatMessage]) {
    let mut open: Vec<String> = vec![];
    let mut seen = HashSet::new();
    for message in messages {
        match message {
            ChatMessage::Assistant { tool_calls, .. } => {
                assert!(open.is_empty(), "calls without result: {open:?}");
                open = tool_calls.iter().rev().map(|call| call.id.clone()).collect();
            }
            ChatMessage::ToolResult { call_id, .. } => {
                assert_eq!(open.pop().as_ref(), Some(call_id), "a result without its call");
                assert!(seen.insert(call_id.clone()), "{call_id} has two results");
            }
            ChatMessage::User(_) => assert!(open.is_empty(), "calls without result: {open:?}"),
        }
    }
    assert!(open.is_empty(), "calls without result: {open:?}");
}

impl<F: Fn(u32) -> Calls + Send + Sync + 'static> Model for Native<F> {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        _: &dyn CallWatch,
        _: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let Purpose::Turn { number } = request.purpose else {
            return Ok(reply(&plan(1).to_string()));
        };
        assert_paired(&request.messages);
        let bytes =
            |tool: &ToolSpec| tool.name.len() + tool.description.len() + tool.input_schema.to_string().len();
        let tools: usize = request.tools.iter().map(bytes).sum::<usize>() / 4;
        let size = tokens_of(&request.messages) + request.system.len() / 4 + tools;
        self.largest.fetch_max(size, Ordering::Relaxed);
        let before = std::mem::replace(&mut *self.last.lock().unwrap(), request.messages.clone());
        if !request.messages.starts_with(&before) {
            self.fresh_starts.fetch_add(1, Ordering::Relaxed);
        }
        let calls = (self.script)(number).into_iter().zip(0..);
        let tool_calls = calls
            .map(|((name, input), place)| ToolUse {
                id: format!("c{number}-{place}"),
                name: name.to_owned(),
                input,
            })
            .collect();
        Ok(ModelReply {
            tool_calls,
            stop: StopReason::ToolUse,
            text: None,
            ..reply("")
        })
    }

    fn identity(&self) -> (String, String) {
        ("test".to_owned(), "native".to_owned())
    }
}

fn file(n: u32, content: &str) -> (&'static str, Value) {
    (
        "file_write",
        json!({"filepath": format!("f{n}.txt"), "content": content}),
    )
}

fn read(path: &str) -> (&'static str, Value) {
    ("file_read", json!({"filepath": path}))
}

fn done() -> Calls {
    vec![("task_complete", json!({"summary": "done"}))]
}

pub(super) fn events<'a>(bench: &Bench, name: &'a str) -> impl Iterator<Item = Value> + use<'a> {
    bench
        .log
        .changes()
        .into_iter()
        .filter_map(move |change| match change {
            Change::Log(event) if event.metadata.get("event") == Some(&json!(name)) => {
                Some(json!(event.metadata))
            }
            _ => None,
        })
}

fn planned() -> Snapshot {
    let mut planned = snapshot();
    planned.status = RunStatus::Executing;
    planned.plan = Some(Plan::from_value(&plan(1)).unwrap());
    planned
}

fn within(context_tokens: u32) -> Bench {
    let limits = Limits {
        context_tokens,
        max_turns: 1000,
        ..Limits::default()
    };
    Bench {
        limits,
        ..Bench::new()
    }
}

#[tokio::test]
async fn five_hundred_steps_fit_a_view_of_16k_tokens_and_no_call_is_parted_from_its_result() {
    let bench = within(16_000);
    // Long and short results, several calls in a turn, calls that fail and calls that steer.
    let model = Native::new(|number| match number {
        500.. => done(),
        n if n % 7 == 0 => vec![
            read("f1.txt"),
            read("no"),
            read("f1.txt"),
            ("message", json!({"message": "on it"})),
        ],
        n if n % 5 == 0 => vec![("file_list", json!({}))],
        n => vec![file(n, &"a line of text\n".repeat(200))],
    });
    let outcome = bench.drive(&model, planned()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let largest = model.largest.load(Ordering::Relaxed);
    assert!((8_000..=16_000).contains(&largest), "{largest}");
    let steps = bench
        .names()
        .concat()
        .iter()
        .filter(|name| *name == "StepSettled")
        .count();
    assert!(steps >= 500, "{steps}");
    let request = model.last_request();
    assert!(request.contains("do it") && request.contains("are not shown any more"));
    assert!(
        request.contains("file_write: called"),
        "the summary counts what was done"
    );
    let trims: Vec<Value> = events(&bench, "context_trimmed").collect();
    assert!(!trims.is_empty());
    assert!(format!("{:?}", bench.log.changes()).contains("Context trimmed due to size"));
    let fresh = model.fresh_starts.load(Ordering::Relaxed);
    assert!(
        fresh <= trims.len() + 1 && fresh < 250,
        "{fresh} requests begin anew after {} cuts",
        trims.len()
    );
}

#[tokio::test]
async fn one_turn_with_more_results_than_fit_is_shown_with_each_cut_shorter() {
    let bench = within(16_000);
    let model = Native::new(|number| match number {
        1 => vec![file(1, &"x".repeat(30_000))],
        2 => vec![read("f1.txt"); 40],
        _ => done(),
    });
    let outcome = bench.drive(&model, planned()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let largest = model.largest.load(Ordering::Relaxed);
    assert!(largest <= 16_000, "{largest}");
}

#[tokio::test]
async fn over_the_limit_the_newer_half_the_prompt_and_the_plan_stay() {
    let bench = within(100_000);
    let text = |n: u32| format!("words of turn {n}. {}", "w".repeat(20_000));
    let model = Native::new(move |number| match number {
        30.. => done(),
        n => vec![("message", json!({"message": text(n)}))],
    });
    assert_eq!(
        bench.drive(&model, planned()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    let request = model.last_request();
    assert!(request.contains("do it") && request.contains("phase_number"));
    assert!(request.contains("words of turn 29.") && request.contains("words of turn 27."));
    assert!(!request.contains("words of turn 2."));
    assert!(model.largest.load(Ordering::Relaxed) <= 100_000);
}

#[tokio::test]
async fn old_long_results_become_notes_that_say_where_the_whole_is_and_the_newest_stay() {
    let bench = within(24_000);
    let model = Native::new(|number| match number {
        1 => vec![file(1, &"z".repeat(9_000))],
        2..=9 => vec![read("f1.txt")],
        _ => done(),
    });
    assert_eq!(
        bench.drive(&model, planned()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    let request = model.last_request();
    assert!(
        request.contains("is not shown any more. The whole is the file f1.txt"),
        "{request}"
    );
    assert!(request.matches(&"z".repeat(1000)).count() >= 6);
    let trim = events(&bench, "context_trimmed").next().unwrap();
    assert_eq!(trim["turns_dropped"], 0);
    assert!(trim["results_cleared"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_worker_that_takes_over_shows_the_model_the_same() {
    let script = |number: u32| match number {
        60.. => done(),
        n => vec![file(n, &"a line of text\n".repeat(300))],
    };
    let bench = within(8_000);
    let first = Native::new(script);
    let mut left = planned();
    // The first worker works through; another one starts from what is stored after turn 40.
    assert_eq!(
        bench.drive(&first, left.clone()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    let whole = first.last_request();
    stored_until(&mut left, &bench, 40);
    let second = Native::new(script);
    assert_eq!(
        within(8_000).drive(&second, left).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(second.last_request(), whole);
}

/// Puts into a snapshot what a log holds up to a turn.
fn stored_until(snapshot: &mut Snapshot, bench: &Bench, last: u32) {
    for change in bench.log.changes() {
        match change {
            Change::TurnStored { turn, .. } if turn.number <= last => snapshot.turns.push(turn),
            Change::StepStarted(step) if step.turn <= last => snapshot.steps.push(StoredStep {
                id: step.id,
                turn: step.turn,
                action: step.action,
                status: StepStatus::Running,
                result: None,
                started_here: false,
            }),
            Change::StepSettled {
                step_id,
                status,
                result,
                ..
            } => {
                for step in snapshot.steps.iter_mut().filter(|step| step.id == step_id) {
                    step.status = status;
                    step.result = Some(result.clone());
                }
            }
            _ => {}
        }
    }
}

fn watched() -> Bench {
    let limits = Limits {
        detect_stalls: true,
        max_failures: 100,
        ..Limits::default()
    };
    Bench {
        limits,
        ..Bench::new()
    }
}

#[tokio::test]
async fn a_run_that_repeats_itself_is_warned_then_paused_with_the_evidence_and_goes_on_after_the_resume() {
    let bench = watched();
    let model = Native::new(|_| vec![("file_list", json!({"dirpath": "a"}))]);
    assert_eq!(bench.drive(&model, planned()).await, Outcome::Waiting);
    let warning = events(&bench, "loop_warning").next().unwrap();
    assert_eq!(
        (&warning["pattern"], &warning["evidence"]["count"]),
        (&json!("same_action"), &json!(4))
    );
    let request = model.last_request();
    assert!(
        request.contains("Note of the runtime: file_list was called 4 times in a row"),
        "{request}"
    );
    let changes = bench.log.changes();
    let waiting = changes.iter().rev().find_map(|change| match change {
        Change::Waiting(what) => what.clone(),
        _ => None,
    });
    let waiting = waiting.unwrap();
    assert_eq!(waiting["kind"], "user");
    assert_eq!(waiting["evidence"]["turns"], json!([5, 6, 7, 8]));
    assert_eq!(waiting["evidence"]["calls"][0]["tool_name"], "file_list");
    assert!(matches!(
        changes.last(),
        Some(Change::Status {
            to: RunStatus::Paused,
            ..
        })
    ));
    // Resumed: the same turns are there, and the counts start again.
    let mut resumed = planned();
    stored_until(&mut resumed, &bench, 100);
    let again = watched();
    let model = Native::new(|number| {
        if number < 12 {
            vec![("file_list", json!({"dirpath": "a"}))]
        } else {
            done()
        }
    });
    assert_eq!(
        again.drive(&model, resumed).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(
        events(&again, "loop_warning").count(),
        0,
        "eleven turns, three of them after the resume"
    );
}

#[tokio::test]
async fn what_stands_behind_a_question_is_told_to_the_model_as_not_run() {
    let model = Native::new(|_| done());
    let mut asked = planned();
    let action = |kind: &str, id: &str| json!({"type": kind, "message": "which?", "call_id": id});
    let actions = [action("request_input", "q"), action("phase_complete", "p")];
    let call = |id: &str, name: &str| json!({"id": id, "name": name, "input": {}});
    asked.turns = vec![Turn {
        number: 1,
        actions: actions
            .map(|action| serde_json::from_value(action).unwrap())
            .to_vec(),
        raw: json!({"text": null, "tool_calls": [call("q", "request_input"), call("p", "phase_complete")]}),
        fault: None,
    }];
    let question = agent::gate::question(asked.run_id, (1, 0), "which?");
    asked.gate.interrupts = vec![KnownInterrupt {
        id: question.id,
        kind: question.kind,
        turn: 1,
        action: 0,
        hash: None,
        status: InterruptStatus::Cancelled,
        decision: None,
        response: Value::Null,
    }];
    let outcome = Bench::new().drive(&model, asked).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let results: Vec<(String, bool)> = model
        .last
        .lock()
        .unwrap()
        .iter()
        .filter_map(|message| match message {
            ChatMessage::ToolResult {
                content, is_error, ..
            } => Some((content.clone(), *is_error)),
            _ => None,
        })
        .collect();
    assert_eq!(results, [("ok".to_owned(), false), ("Not run.".to_owned(), true)]);
}

#[tokio::test]
async fn the_same_answer_to_calls_for_other_ids_is_no_repetition() {
    let bench = watched();
    let model = Native::new(|number| {
        if number < 10 {
            vec![("file_list", json!({"dirpath": "a", "item_id": number}))]
        } else {
            done()
        }
    });
    assert_eq!(
        bench.drive(&model, planned()).await,
        Outcome::Finished(RunStatus::Completed)
    );
    assert_eq!(events(&bench, "loop_warning").count(), 0);
}

#[tokio::test]
async fn a_take_over_counts_repetitions_on_where_the_lost_worker_was() {
    let bench = watched();
    let same = |_| vec![("file_list", json!({}))];
    assert_eq!(bench.drive(&Native::new(same), planned()).await, Outcome::Waiting);
    let mut left = planned();
    stored_until(&mut left, &bench, 6);
    let other = watched();
    assert_eq!(other.drive(&Native::new(same), left).await, Outcome::Waiting);
    assert_eq!(
        other
            .names()
            .concat()
            .iter()
            .filter(|name| *name == "TurnStored")
            .count(),
        2,
        "turns 7 and 8"
    );
}

#[tokio::test]
async fn errors_monologues_and_two_calls_in_turn_are_seen_and_work_that_moves_is_not() {
    let patterns = async |script: fn(u32) -> Calls| -> Vec<String> {
        let bench = watched();
        bench.drive(&Native::new(script), planned()).await;
        let found = events(&bench, "loop_warning").map(|event| event["pattern"].as_str().unwrap().to_owned());
        found.collect()
    };
    let errors = |n: u32| match n {
        10.. => done(),
        n if n % 2 == 0 => vec![read("no")],
        n => vec![file(n, "x")],
    };
    assert_eq!(patterns(errors).await, ["same_error"]);
    let changing = |n: u32| {
        if n > 2 {
            done()
        } else {
            vec![("shell", json!({"command": "make"}))]
        }
    };
    assert_eq!(
        patterns(changing).await,
        ["same_error"],
        "twice is enough for a tool that changes something"
    );
    let talk = |n: u32| {
        if n > 4 {
            done()
        } else {
            vec![("message", json!({"message": format!("I think {n}")}))]
        }
    };
    assert_eq!(patterns(talk).await, ["monologue"]);
    let turns = |n: u32| match n {
        13.. => done(),
        n if n % 2 == 0 => vec![("file_list", json!({}))],
        _ => vec![("file_list", json!({"dirpath": "x"}))],
    };
    assert_eq!(patterns(turns).await, ["ping_pong"]);
    let work = |n: u32| {
        if n > 40 {
            done()
        } else {
            vec![
                file(n, "x"),
                read(if n.is_multiple_of(2) { "f1.txt" } else { "f2.txt" }),
            ]
        }
    };
    assert_eq!(patterns(work).await, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_watched_unless_it_is_wanted() {
    let bench = Bench::new();
    let model = Native::new(|_| vec![("file_list", json!({}))]);
    assert_eq!(
        bench.drive(&model, planned()).await,
        Outcome::Finished(RunStatus::Timeout)
    );
    assert!(format!("{:?}", bench.log.changes()).contains("Maximum iterations reached"));
}
