//! What runs spend, and what is set aside of a day's caps.

use crate::support::{Store, job_id, plan, settled, step, step_id, store, to, turn, user};
use domain::action::Usage;
use domain::budget::{Budget, BudgetChange, Dimension, Scope, Spend};
use domain::change::{Change, NewStep};
use domain::clock::Clock;
use domain::command::Command;
use domain::ids::{RunId, UserId};
use domain::status::RunStatus;
use domain::tool::ToolResult;
use futures::future::join_all;
use jiff::SignedDuration;
use runs::budget::Ahead;
use runs::{Budgets, DayCaps, RunParts};
use serde_json::{Value, json};
use std::sync::Arc;

fn change(value: &Value) -> BudgetChange {
    BudgetChange::from_value(value).unwrap()
}

fn tokens(amount: i64) -> Spend {
    Spend::default().with(Dimension::Tokens, amount)
}

fn budgets(store: &Store, user: i64, all: i64) -> Budgets {
    let cap = |tokens| Budget::default().with(Dimension::Tokens, Some(tokens));
    let caps = DayCaps {
        user: cap(user),
        all: cap(all),
    };
    Budgets::new(store.db.clone(), Arc::new(store.clock.clone()), caps)
}

fn ahead(run_id: RunId, epoch: i64, user_id: &UserId, worst: i64) -> Ahead<'_> {
    Ahead {
        run_id,
        user_id,
        epoch,
        turn: 1,
        worst: tokens(worst),
    }
}

fn failed_try(run: RunId) -> Change {
    Change::CallBilled {
        key: format!("{run}:turn:1:failed:1:1"),
        model: "m".to_owned(),
        provider: "p".to_owned(),
        usage: Usage {
            input_tokens: 7,
            cached_tokens: 3,
            cost_micros: Some(1_500),
            ..Usage::default()
        },
    }
}

#[tokio::test]
async fn spending_is_summed_from_what_is_stored_and_holds_over_attempts() {
    let store = store().await;
    let job = store.created(true).await.enqueue.unwrap();
    let run = job.run_id;
    let caps = change(&json!({"tokens": 500, "wall_seconds": 100}));
    let owner = user();
    let set = store.orchestration.change_budget(&owner, run, &caps, job_id());
    set.await.unwrap();
    let epoch = store.claim(&job, "w").await.unwrap().epoch;
    let id = step_id();
    let mut shell = step(id, 1);
    if let Change::StepStarted(step) = &mut shell {
        step.tool_name = "shell".to_owned();
    }
    let changes = vec![plan(), to(RunStatus::Executing), turn(1), failed_try(run), shell];
    store.progress(run, epoch, changes).await.unwrap();
    store.clock.advance(SignedDuration::from_secs(10));
    let result = settled(id, ToolResult::ok(json!({}), 1.0));
    let Change::StepSettled { duration_ms, .. } = &result else {
        panic!("a settled step");
    };
    let duration_ms = *duration_ms;
    store.progress(run, epoch, vec![result]).await.unwrap();
    store.lease_runs_out(run).await;
    let again = store.claim(&job, "x").await.unwrap();
    let funds = again.snapshot.funds.expect("it has a budget");
    assert_eq!(funds.budget.cap(Dimension::Tokens), Some(500));
    let spent = funds.spent;
    assert_eq!(spent.get(Dimension::Tokens), 15 + 7);
    assert_eq!(spent.get(Dimension::Cost), 1_500);
    assert_eq!(spent.get(Dimension::Steps), 1);
    assert_eq!(spent.get(Dimension::Sandbox), duration_ms);
    assert!(
        (10_000..10_100).contains(&spent.get(Dimension::Wall)),
        "{spent:?}"
    );
    assert!(funds.unpriced, "the turn has no price");
    let row = "SELECT concat_ws(' ', user_id, cached_tokens, cost_usd) FROM token_records
        WHERE idempotency_key LIKE '%failed%'";
    assert_eq!(store.text(row).await, "u-1 3 0.001500");
}

/// A turn whose reply has a price.
fn priced(number: u32) -> Change {
    let mut stored = turn(number);
    if let Change::TurnStored { usage, .. } = &mut stored {
        usage.cost_micros = Some(2_000);
    }
    stored
}

#[tokio::test]
async fn the_first_step_of_a_turn_tells_what_its_model_calls_used_and_cost() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let run = job.run_id;
    let second = |turn| match step(step_id(), turn) {
        Change::StepStarted(step) => Change::StepStarted(NewStep { action: 1, ..step }),
        other => other,
    };
    let ids = [step_id(), step_id(), step_id()];
    let changes = vec![failed_try(run), priced(1), step(ids[0], 1), second(1)];
    store.progress(run, epoch, changes).await.unwrap();
    // The calls of turn 11 are not those of turn 1, and a call without a price has no cost.
    store.progress(run, epoch, vec![turn(11)]).await.unwrap();
    let later = vec![step(ids[1], 11), priced(2), step(ids[2], 2)];
    store.progress(run, epoch, later).await.unwrap();
    let done = settled(ids[0], ToolResult::ok(json!({}), 1.0));
    store.progress(run, epoch, vec![done]).await.unwrap();
    let steps = store.reader.parts(run, RunParts::Steps, 10).await.unwrap();
    let told: Vec<&Value> = steps.iter().map(|step| &step["metadata"]).collect();
    let model = |prompt: i64, completion: i64, cost: Value| json!({"model": {"prompt_tokens": prompt, "completion_tokens": completion, "cost_usd": cost}});
    assert_eq!(
        told,
        [
            &model(17, 5, json!(0.0035)),
            &json!({}),
            &model(10, 5, Value::Null),
            &model(10, 5, json!(0.002)),
        ]
    );
}

#[tokio::test]
async fn a_run_without_budget_is_claimed_without_asking_for_its_spending() {
    let store = store().await;
    let job = store.created(true).await.enqueue.unwrap();
    assert_eq!(store.claim(&job, "w").await.unwrap().snapshot.funds, None);
}

#[tokio::test]
async fn paused_time_is_not_working_time() {
    let store = store().await;
    let (job, _) = store.executing().await;
    store.clock.advance(SignedDuration::from_secs(5));
    store.command(job.run_id, Command::Pause).await.unwrap();
    store.clock.advance(SignedDuration::from_secs(1000));
    let now = store.clock.now();
    let funds = store.reader.funds(job.run_id, now).await.unwrap().unwrap();
    let worked = funds.spent.get(Dimension::Wall);
    assert!((5_000..5_100).contains(&worked), "{worked}");
}

#[tokio::test]
async fn calls_under_way_count_against_the_day_until_their_turn_is_stored() {
    let store = store().await;
    let day = budgets(&store, 1_000, 1_000);
    let (first, first_epoch) = store.executing().await;
    let (second, second_epoch) = store.executing().await;
    let user = user();
    let one = ahead(first.run_id, first_epoch, &user, 600);
    let two = ahead(second.run_id, second_epoch, &user, 600);
    assert_eq!(day.reserve(one).await.unwrap(), None);
    assert_eq!(
        day.reserve(one).await.unwrap(),
        None,
        "a run has one call at a time"
    );
    let reached = day.reserve(two).await.unwrap().expect("no room");
    assert_eq!(
        (reached.scope, reached.spent, reached.cap),
        (Scope::UserDay, 600, 1_000)
    );
    store
        .progress(first.run_id, first_epoch, vec![turn(1)])
        .await
        .unwrap();
    assert_eq!(day.reserve(two).await.unwrap(), None, "15 were used of 600");
    store.clock.advance(SignedDuration::from_hours(24));
    let tomorrow = Ahead { turn: 2, ..one };
    let late = day.reserve(Ahead {
        worst: tokens(401),
        ..tomorrow
    });
    assert!(
        late.await.unwrap().is_some(),
        "what is under way counts, what was used yesterday does not"
    );
    let late = day.reserve(Ahead {
        worst: tokens(400),
        ..tomorrow
    });
    assert_eq!(late.await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_worker_sets_nothing_aside_and_users_do_not_share_their_caps() {
    let store = store().await;
    let day = budgets(&store, 1_000, 1_500);
    let (first, first_epoch) = store.executing().await;
    let (second, second_epoch) = store.executing().await;
    let (jane, john) = (user(), UserId::from("john"));
    day.reserve(ahead(first.run_id, first_epoch, &jane, 900))
        .await
        .unwrap();
    let of_john = |worst| ahead(second.run_id, second_epoch, &john, worst);
    assert_eq!(day.reserve(of_john(600)).await.unwrap(), None);
    let reached = day.reserve(of_john(700)).await.unwrap().expect("no room");
    assert_eq!((reached.scope, reached.spent), (Scope::Day, 900));
    store.lease_runs_out(first.run_id).await;
    assert_eq!(day.reserve(of_john(1_000)).await.unwrap(), None);
}

#[tokio::test]
async fn of_many_calls_at_once_as_many_are_let_in_as_fit() {
    let store = store().await;
    let day = budgets(&store, 1_000, 10_000);
    let user = user();
    let mut runs = vec![];
    for _ in 0..8 {
        let (job, epoch) = store.executing().await;
        runs.push((job.run_id, epoch));
    }
    let asked = runs
        .iter()
        .map(|(run, epoch)| day.reserve(ahead(*run, *epoch, &user, 300)));
    let answers = join_all(asked).await;
    let let_in = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().is_none())
        .count();
    assert_eq!(let_in, 3);
}
