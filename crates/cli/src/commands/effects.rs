//! `agentctl effects`: the tool calls of a run, and what became of those whose outcome is unknown.

use crate::args::{EffectsAction, EffectsArgs};
use crate::client::Api;
use crate::console::{Console, one_line};
use crate::failure::{Code, Failure};
use crate::render;
use serde_json::{Value, json};

/// Longest shown input, in characters.
const MAX_INPUT: usize = 60;

/// `agentctl effects`.
pub async fn effects(console: Console, api: &Api, args: &EffectsArgs) -> Result<Code, Failure> {
    let run = api.resolve(&args.run).await?;
    let answer = api.effects(&run).await?;
    let ledger = answer["effects"].as_array().cloned().unwrap_or_default();
    match &args.action {
        None => list(console, &ledger, args.json),
        Some(EffectsAction::Settle {
            step,
            decision,
            output,
            note,
        }) => {
            let step = step_named(&ledger, step)?;
            // A word that arrives late must not answer a later question.
            let epoch = api.status(&run, &[]).await?["run"]["waiting_for"]["epoch"].clone();
            let output = parsed(output.as_deref())?;
            let told = json!({"decision": decision, "output": output, "note": note, "epoch": epoch});
            let answer = api.settle_effect(&run, &step, &told).await?;
            console.out(&format!("{run}  {}", answer["status"].as_str().unwrap_or("-")))?;
            console.note(answer["message"].as_str().unwrap_or_default());
            Ok(Code::Ok)
        }
    }
}

fn list(console: Console, ledger: &[Value], as_json: bool) -> Result<Code, Failure> {
    if as_json {
        return ledger
            .iter()
            .try_for_each(|effect| console.out(&effect.to_string()))
            .map(|()| Code::Ok);
    }
    if ledger.is_empty() {
        console.note("no tool was called yet");
    }
    let rows: Vec<Vec<String>> = ledger
        .iter()
        .map(|effect| {
            let field = |key: &str| effect[key].as_str().unwrap_or("-").to_owned();
            vec![
                effect["step_number"].to_string(),
                field("state"),
                field("effect"),
                field("tool_name"),
                format!("try {}", effect["tries"]),
                one_line(&effect["tool_input"].to_string(), MAX_INPUT),
            ]
        })
        .collect();
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    if ledger.iter().any(|effect| effect["state"] == "unknown") {
        console
            .note("say what became of the unknown one: agentctl effects RUN settle STEP done|not_done|retry");
    }
    Ok(Code::Ok)
}

/// The id of a step given by number or id.
fn step_named(ledger: &[Value], name: &str) -> Result<String, Failure> {
    let named = ledger.iter().find(|effect| {
        effect["step_id"] == name
            || effect["step_number"]
                .as_i64()
                .is_some_and(|number| number.to_string() == name)
    });
    named
        .and_then(|effect| effect["step_id"].as_str())
        .map(str::to_owned)
        .ok_or_else(|| {
            Failure::new(format!("the run has no step {name}"))
                .fix("see its steps with `agentctl effects RUN`")
                .code(Code::Usage)
        })
}

fn parsed(output: Option<&str>) -> Result<Value, Failure> {
    let Some(text) = output else {
        return Ok(Value::Null);
    };
    serde_json::from_str(text).map_err(|error| {
        Failure::new("--output is not JSON")
            .why(&error)
            .fix("for example --output '{\"id\": 7}'")
            .code(Code::Usage)
    })
}
