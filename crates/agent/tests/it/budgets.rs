//! Budgets and what is spent, seen from the driver.

use super::{Bench, ListModel, plan, snapshot};
use agent::driver::Outcome;
use agent::ports::{CallWatch, CommitError, FailedCall, Model, ModelError, ModelReply, ModelRequest};
use agent::purse::Purse;
use agent::snapshot::Snapshot;
use domain::budget::{Budget, Dimension, Reached, Scope, Spend};
use domain::{Change, Price, RunStatus, Usage};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A list of replies with a price, whose calls may use tokens and fail, or find the vendor's money spent.
struct Priced {
    list: ListModel,
    price: Option<Price>,
    failed_tries: usize,
    /// Before each further try it is asked whether there is room.
    asks: bool,
    spent: bool,
}

impl Priced {
    fn new(turns: &[Value]) -> Self {
        Self {
            list: ListModel::new(&plan(1), turns),
            price: Some(Price::FREE),
            failed_tries: 0,
            asks: false,
            spent: false,
        }
    }
}

impl Model for Priced {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        if self.spent {
            return Err(ModelError::Spent {
                message: "openai answered 429: insufficient_quota: no money".to_owned(),
                status: Some(429),
            });
        }
        for _ in 0..self.failed_tries {
            watch.text("Let me");
            watch.failed(FailedCall {
                model: "m".to_owned(),
                provider: "p".to_owned(),
                usage: Usage {
                    input_tokens: 7,
                    ..Usage::default()
                },
            });
            if self.asks && !watch.may_try_again().await {
                return Err(ModelError::Transient {
                    message: "cut".to_owned(),
                    status: None,
                    retry_after: None,
                    try_again_here: false,
                });
            }
        }
        watch.text("done");
        self.list.call(request, cancel).await
    }

    fn price(&self) -> Option<Price> {
        self.price
    }

    fn identity(&self) -> (String, String) {
        self.list.identity()
    }
}

fn bench(budget: &Value) -> Bench {
    let mut bench = Bench::new();
    let budget = Budget::from_value(budget).unwrap();
    bench.log.purse = Some(Purse::new(budget, Spend::default(), Timestamp::UNIX_EPOCH));
    bench
}

fn executing() -> Snapshot {
    Snapshot {
        status: RunStatus::Executing,
        ..snapshot()
    }
}

fn statuses(bench: &Bench) -> Vec<RunStatus> {
    let status = |change: &Change| match change {
        Change::Status { to, .. } => Some(*to),
        _ => None,
    };
    bench.log.changes().iter().filter_map(status).collect()
}

/// The stored reason of a wait.
fn waits_for(bench: &Bench) -> Value {
    let changes = bench.log.changes();
    let waits = changes.iter().rev().find_map(|change| match change {
        Change::Waiting(what) => what.clone(),
        _ => None,
    });
    waits.unwrap_or_default()
}

fn events(bench: &Bench, name: &str) -> Vec<Value> {
    let of = |change: &Change| match change {
        Change::Log(event) if event.metadata.get("event") == Some(&json!(name)) => {
            Some(Value::Object(event.metadata.clone()))
        }
        _ => None,
    };
    bench.log.changes().iter().filter_map(of).collect()
}

fn tool() -> Value {
    json!({"type": "tool", "tool_name": "message", "tool_input": {"message": "hi"}})
}

#[tokio::test]
async fn a_call_that_could_pass_the_cap_is_not_made_and_the_run_pauses_with_the_reason() {
    let bench = bench(&json!({"tokens": 4000}));
    let model = Priced::new(&[]);
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::Waiting);
    assert_eq!(statuses(&bench), [RunStatus::Executing, RunStatus::Paused]);
    let waits = waits_for(&bench);
    assert_eq!(
        (&waits["kind"], &waits["dimension"]),
        (&json!("budget"), &json!("tokens"))
    );
    assert_eq!((&waits["spent"], &waits["cap"]), (&json!(0), &json!(4000)));
    assert_eq!(events(&bench, "budget_reached").len(), 1);
    assert!(model.list.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_run_paused_before_its_plan_plans_after_the_raise() {
    let bench = bench(&json!({"tokens": 100_000}));
    let model = Priced::new(&[json!({"type": "task_complete"})]);
    let outcome = bench.drive(&model, executing()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    assert_eq!(statuses(&bench), [RunStatus::Completed]);
}

#[tokio::test]
async fn steps_that_begin_in_one_commit_stop_at_the_cap_too() {
    let bench = bench(&json!({"steps": 2}));
    let all = json!([tool(), tool(), tool(), tool()]);
    let outcome = bench.drive(&Priced::new(&[all]), executing()).await;
    assert_eq!(outcome, Outcome::Waiting);
    let names = bench.names().concat();
    let begun = names.iter().filter(|name| *name == "StepStarted");
    assert_eq!(begun.count(), 2, "{names:?}");
    assert_eq!(waits_for(&bench)["spent"], 2);
}

#[tokio::test]
async fn a_call_that_is_refused_is_a_step_too_and_not_taken_beyond_the_cap() {
    let bench = bench(&json!({"steps": 1}));
    let mut denied = executing();
    denied.gate.policy = domain::Policy::parse(&json!({"message": "deny"})).unwrap();
    let all = json!([tool(), tool()]);
    assert_eq!(bench.drive(&Priced::new(&[all]), denied).await, Outcome::Waiting);
    let names = bench.names().concat();
    let begun = names.iter().filter(|name| *name == "StepStarted");
    assert_eq!(begun.count(), 1, "{names:?}");
}

fn billed(bench: &Bench) -> Vec<(String, Usage)> {
    let of = |change: &Change| match change {
        Change::CallBilled { key, usage, .. } => Some((key.clone(), *usage)),
        _ => None,
    };
    bench.log.changes().iter().filter_map(of).collect()
}

#[tokio::test]
async fn a_plan_that_meets_a_paused_run_is_not_taken_and_its_reply_is_paid_for() {
    let bench = Bench::new();
    bench.log.refuse(CommitError::Paused);
    let outcome = bench.drive(&Priced::new(&[]), executing()).await;
    assert_eq!(outcome, Outcome::Paused);
    assert_eq!(bench.names(), [vec!["CallBilled"]]);
    let [(key, usage)] = &billed(&bench)[..] else {
        panic!("one call");
    };
    assert!(key.ends_with(":plan:0:reply:7"), "{key}");
    assert_eq!((usage.input_tokens, usage.output_tokens), (3, 2));
}

/// Begins to answer and never ends; somebody pauses the run, or the worker is told to leave.
struct Endless {
    fired: CancellationToken,
    says: &'static str,
}

impl Model for Endless {
    async fn call_watched(
        &self,
        _: &ModelRequest,
        watch: &dyn CallWatch,
        _: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        if !self.says.is_empty() {
            watch.text(self.says);
        }
        self.fired.cancel();
        std::future::pending().await
    }

    fn price(&self) -> Option<Price> {
        Some(Price::FREE)
    }

    fn identity(&self) -> (String, String) {
        ("test".to_owned(), "endless".to_owned())
    }
}

#[tokio::test]
async fn a_call_that_is_ended_in_the_middle_of_its_reply_is_counted_as_far_as_it_came() {
    // A worker that leaves waits a moment for the reply.
    for (says, calls, hands_back) in [("eight ch", 1, false), ("", 0, false), ("eight ch", 1, true)] {
        let bench = Bench::new();
        let fired = if hands_back { &bench.soft } else { &bench.pause };
        let model = Endless {
            fired: fired.clone(),
            says,
        };
        let outcome = bench.drive(&model, executing()).await;
        let expected = if hands_back {
            Outcome::HandedBack
        } else {
            Outcome::Paused
        };
        assert_eq!(outcome, expected);
        let billed = billed(&bench);
        assert_eq!(billed.len(), calls, "{billed:?}");
        for (key, usage) in billed {
            assert!(key.ends_with(":plan:0:failed:7:1"), "{key}");
            assert!(usage.is_estimated && usage.input_tokens > 0, "{usage:?}");
            assert_eq!((usage.output_tokens, usage.cost_micros), (2, Some(0)));
        }
    }
}

#[tokio::test]
async fn caps_that_were_raised_meanwhile_hold_at_once() {
    let mut bench = bench(&json!({"tokens": 0}));
    bench.log.raised = Some(Budget::default());
    let model = Priced::new(&[json!({"type": "task_complete"})]);
    let outcome = bench.drive(&model, snapshot()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
}

#[tokio::test]
async fn the_cap_on_steps_stops_before_the_next_one_and_is_warned_of() {
    let bench = bench(&json!({"steps": 2}));
    let model = Priced::new(&[tool(), tool(), tool()]);
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::Waiting);
    let started = bench.log.changes();
    let started = started
        .iter()
        .filter(|change| matches!(change, Change::StepStarted(_)));
    assert_eq!(started.count(), 2);
    assert_eq!(waits_for(&bench)["dimension"], "steps");
    let percents: Vec<Value> = events(&bench, "budget_warning")
        .iter()
        .map(|event| event["percent"].clone())
        .collect();
    assert_eq!(percents, [80, 95]);
}

#[tokio::test]
async fn work_time_is_capped() {
    let bench = bench(&json!({"wall_seconds": 0}));
    assert_eq!(bench.drive(&Priced::new(&[]), snapshot()).await, Outcome::Waiting);
    assert_eq!(waits_for(&bench)["dimension"], "wall_seconds");
}

#[tokio::test]
async fn money_cannot_be_capped_without_a_price() {
    let bench = bench(&json!({"cost_usd": 5}));
    let mut model = Priced::new(&[]);
    model.price = None;
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::Waiting);
    assert_eq!(events(&bench, "budget_price_unknown").len(), 1);
    assert!(
        waits_for(&bench)["detail"]
            .as_str()
            .unwrap()
            .contains("LLM_PRICES_FILE")
    );
}

#[tokio::test]
async fn money_is_capped_at_the_worst_case() {
    let price = Price {
        output: 15_000_000,
        ..Price::FREE
    };
    for (cap, outcome) in [
        // A plan may take 4096 tokens.
        (0.06, Outcome::Waiting),
        (0.062, Outcome::Finished(RunStatus::Completed)),
    ] {
        let bench = bench(&json!({"cost_usd": cap}));
        let mut model = Priced::new(&[json!({"type": "task_complete"})]);
        model.price = Some(price);
        assert_eq!(bench.drive(&model, snapshot()).await, outcome, "{cap}");
    }
}

#[tokio::test]
async fn a_cap_of_the_day_pauses_too() {
    let mut bench = Bench::new();
    bench.log.day = Some(Reached {
        scope: Scope::UserDay,
        dimension: Dimension::Tokens,
        spent: 1,
        cap: 2,
        needed: 3,
    });
    assert_eq!(bench.drive(&Priced::new(&[]), snapshot()).await, Outcome::Waiting);
    assert_eq!(waits_for(&bench)["dimension"], "user_daily_tokens");
}

#[tokio::test]
async fn each_try_under_a_cap_of_the_day_is_set_aside_with_what_the_tries_before_it_used() {
    let day = Some(Reached {
        scope: Scope::UserDay,
        dimension: Dimension::Tokens,
        spent: 1,
        cap: 2,
        needed: 3,
    });
    for (room, ended) in [(6, true), (2, false)] {
        let mut bench = Bench::new();
        (bench.log.day, bench.log.day_calls) = (day, room);
        let mut model = Priced::new(&[json!({"type": "task_complete"})]);
        (model.failed_tries, model.asks) = (2, true);
        let outcome = bench.drive(&model, snapshot()).await;
        assert_eq!(
            outcome == Outcome::Finished(RunStatus::Completed),
            ended,
            "{outcome:?}"
        );
        let reserved = bench.log.reserved();
        let tokens: Vec<i64> = reserved
            .iter()
            .map(|(_, worst)| worst.get(Dimension::Tokens))
            .collect();
        let turns: Vec<u32> = reserved.iter().map(|(turn, _)| *turn).collect();
        assert_eq!(tokens[1] - tokens[0], 7, "{tokens:?}");
        if ended {
            assert_eq!(turns, [0, 0, 0, 1, 1, 1]);
            assert_eq!((tokens[2] - tokens[0], tokens[5] - tokens[3]), (14, 14));
        } else {
            assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
            assert_eq!(turns, [0, 0]);
        }
    }
}

#[tokio::test]
async fn failed_tries_are_billed_under_keys_of_their_own_and_leave_less() {
    let bench = bench(&json!({"tokens": 100_000}));
    let mut model = Priced::new(&[json!({"type": "task_complete"})]);
    model.failed_tries = 2;
    bench.drive(&model, snapshot()).await;
    let billed = |change: &Change| match change {
        Change::CallBilled { key, usage, .. } => Some((key.clone(), usage.input_tokens)),
        _ => None,
    };
    let billed: Vec<_> = bench.log.changes().iter().filter_map(billed).collect();
    assert_eq!(billed.len(), 4, "two of the plan, two of the turn");
    let keys: std::collections::HashSet<_> = billed.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 4);
    assert!(billed.iter().all(|(_, tokens)| *tokens == 7));
    let shown = bench.log.shown();
    let first: Vec<_> = shown
        .iter()
        .filter(|(turn, _, text)| *turn == 1 && !text.is_empty())
        .collect();
    assert_eq!(
        first,
        [
            &(1, 0, "Let me".to_owned()),
            &(1, 1, "Let me".to_owned()),
            &(1, 2, "done".to_owned())
        ]
    );
}

#[tokio::test]
async fn a_reply_without_a_plan_is_billed_before_the_next_call() {
    let bench = bench(&json!({"tokens": 100_000}));
    let mut model = Priced::new(&[]);
    model.list = ListModel::new(&json!({"goal": "none"}), &[]);
    assert_eq!(
        bench.drive(&model, snapshot()).await,
        Outcome::Finished(RunStatus::Failed)
    );
    let changes = bench.log.changes();
    let billed = changes.iter().filter_map(|change| match change {
        Change::CallBilled { usage, .. } | Change::TurnStored { usage, .. } => Some(usage.total()),
        _ => None,
    });
    assert_eq!(
        billed.collect::<Vec<_>>(),
        [5, 5, 5],
        "three replies, three records"
    );
}

#[tokio::test]
async fn money_spent_at_the_vendor_pauses_the_run_with_the_vendors_words() {
    let bench = Bench::new();
    let mut model = Priced::new(&[]);
    model.spent = true;
    assert_eq!(bench.drive(&model, snapshot()).await, Outcome::Waiting);
    assert_eq!(statuses(&bench), [RunStatus::Executing, RunStatus::Paused]);
    let waits = waits_for(&bench);
    assert_eq!(waits["kind"], "model_backoff");
    assert!(
        waits["detail"]
            .as_str()
            .unwrap()
            .contains("insufficient_quota: no money")
    );
}
