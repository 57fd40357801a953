//! `agentctl budget`: what a run may spend and has spent.

use crate::args::BudgetArgs;
use crate::client::Api;
use crate::console::Console;
use crate::failure::{Code, Failure};
use crate::render;
use serde_json::{Map, Value, json};

/// What can be capped, as the API names it.
const NAMES: [&str; 5] = ["tokens", "cost_usd", "steps", "wall_seconds", "sandbox_seconds"];

/// `agentctl budget`.
pub async fn budget(console: Console, api: &Api, args: &BudgetArgs) -> Result<Code, Failure> {
    let run = api.resolve(&args.run).await?;
    let caps = caps(args);
    let answer = if caps.is_empty() {
        api.budget(&run).await?
    } else {
        api.change_budget(&run, &json!({"budget": caps})).await?
    };
    if args.json {
        return console.out(&answer.to_string()).map(|()| Code::Ok);
    }
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    };
    let row = |name: &&str| {
        let (spent, cap) = (&answer["spent"][*name], &answer["budget"][*name]);
        vec![(*name).to_owned(), shown(spent), "of".to_owned(), shown(cap)]
    };
    let rows: Vec<Vec<String>> = NAMES.iter().map(row).collect();
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    console.out(&format!(
        "{run}  {}",
        answer["run_status"].as_str().unwrap_or("-")
    ))?;
    if answer["cost_known"] == false {
        console.note("some model calls have no price: the cost is higher than shown (see LLM_PRICES_FILE)");
    }
    Ok(Code::Ok)
}

/// The caps that were named.
fn caps(args: &BudgetArgs) -> Map<String, Value> {
    let given = [
        ("tokens", args.tokens.map(Value::from)),
        ("cost_usd", args.cost_usd.map(Value::from)),
        ("steps", args.steps.map(Value::from)),
        ("wall_seconds", args.wall_seconds.map(Value::from)),
        ("sandbox_seconds", args.sandbox_seconds.map(Value::from)),
    ];
    let taken = args.none.iter().map(|name| (name.clone(), Value::Null));
    let given = given
        .into_iter()
        .filter_map(|(name, cap)| Some((name.to_owned(), cap?)));
    taken.chain(given).collect()
}
