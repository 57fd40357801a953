//! `agentctl interrupts`, `approve`, `reject`, `answer`: what a run asks a person.
//!
//! A decision carries the hash of the call that was looked at, so that it is never for another one.

use crate::args::{AnswerArgs, ApproveArgs, InterruptsArgs, RejectArgs};
use crate::client::Api;
use crate::console::{Console, harmless};
use crate::failure::{Code, Failure};
use serde_json::{Value, json};

/// `agentctl interrupts`.
pub async fn list(console: Console, api: &Api, args: &InterruptsArgs) -> Result<Code, Failure> {
    let run = api.resolve(&args.run).await?;
    let asked = asked(api, &run, args.all).await?;
    if asked.is_empty() && !args.json {
        console.note("the run asks nothing");
    }
    for one in &asked {
        if args.json {
            console.out(&one.to_string())?;
            continue;
        }
        let field = |key: &str| one[key].as_str().unwrap_or("-");
        let state = match one["decision"].as_str() {
            Some(decision) => format!("{} ({decision})", field("status")),
            None => field("status").to_owned(),
        };
        console.out(&format!("{}  {}  {state}", field("id"), field("kind")))?;
        console.out(&format!("  {}", harmless(field("message"))))?;
    }
    if !args.json && asked.iter().any(|one| one["status"] == "open") {
        console.note(
            "decide with `agentctl approve|reject RUN [ID]`, answer with `agentctl answer RUN [ID] TEXT`",
        );
    }
    Ok(Code::Ok)
}

/// `agentctl approve`.
pub async fn approve(console: Console, api: &Api, args: &ApproveArgs) -> Result<Code, Failure> {
    let input = args
        .input
        .as_deref()
        .map(|text| json_of("--input", text))
        .transpose()?;
    let decision = match input {
        Some(input) => json!({"decision": "edit", "input": input}),
        None => json!({"decision": "approve"}),
    };
    decide(
        console,
        api,
        &args.run,
        (args.interrupt.as_deref(), args.all),
        &decision,
    )
    .await
}

/// `agentctl reject`.
pub async fn reject(console: Console, api: &Api, args: &RejectArgs) -> Result<Code, Failure> {
    let decision = json!({"decision": "reject", "reason": args.reason});
    decide(
        console,
        api,
        &args.run,
        (args.interrupt.as_deref(), args.all),
        &decision,
    )
    .await
}

/// `agentctl answer`.
pub async fn answer(console: Console, api: &Api, args: &AnswerArgs) -> Result<Code, Failure> {
    let (named, text) = match args.words.as_slice() {
        [id, text] => (Some(id.as_str()), text),
        [text] => (None, text),
        _ => return Err(Failure::new("an answer is missing").code(Code::Usage)),
    };
    let decision = json!({"decision": "answer", "text": text});
    decide(console, api, &args.run, (named, false), &decision).await
}

async fn decide(
    console: Console,
    api: &Api,
    run: &str,
    (named, all): (Option<&str>, bool),
    decision: &Value,
) -> Result<Code, Failure> {
    let run = api.resolve(run).await?;
    let wants_question = decision["decision"] == "answer";
    let mut open = asked(api, &run, false).await?;
    open.retain(|one| (one["kind"] == "question") == wants_question);
    for one in chosen(&run, &open, named, all)? {
        let mut decision = decision.clone();
        decision["hash"] = one["hash"].clone();
        let id = one["id"].as_str().unwrap_or_default();
        let answer = api.decide(&run, id, &decision).await?;
        let word = answer["interrupt"]["decision"].as_str().unwrap_or("-");
        console.out(&format!(
            "{id}  {word}  {}",
            answer["run_status"].as_str().unwrap_or("-")
        ))?;
    }
    console.note(&format!("follow it with `agentctl logs {run} -f`"));
    Ok(Code::Ok)
}

/// Those that are meant: all, the one that is named, or the only one.
fn chosen<'a>(run: &str, open: &'a [Value], named: Option<&str>, all: bool) -> Result<&'a [Value], Failure> {
    let see = format!("see them with `agentctl interrupts {run}`");
    if open.is_empty() {
        return Err(Failure::new("the run asks nothing of this kind")
            .fix(&see)
            .code(Code::Usage));
    }
    if all {
        return Ok(open);
    }
    let fits =
        |one: &Value| named.is_none_or(|named| one["id"].as_str().is_some_and(|id| id.starts_with(named)));
    let mut fitting = open
        .iter()
        .enumerate()
        .filter(|(_, one)| fits(one))
        .map(|(place, _)| place);
    match (fitting.next(), fitting.next()) {
        (Some(place), None) => Ok(&open[place..=place]),
        (Some(_), Some(_)) => Err(Failure::new("several are open: name one, or take --all")
            .fix(&see)
            .code(Code::Usage)),
        (None, _) => Err(Failure::new("none that is open has this id")
            .fix(&see)
            .code(Code::Usage)),
    }
}

async fn asked(api: &Api, run: &str, all: bool) -> Result<Vec<Value>, Failure> {
    let answer = api.interrupts(run, all).await?;
    Ok(answer["interrupts"].as_array().cloned().unwrap_or_default())
}

/// An option whose value is JSON.
pub(crate) fn json_of(option: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::new(format!("{option} is not JSON"))
            .why(&error)
            .fix(format!("for example {option} '{{\"shell\": \"ask\"}}'"))
            .code(Code::Usage)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_one_needs_no_name_and_of_several_one_is_named() {
        let open = [json!({"id": "ab1"}), json!({"id": "ab2"})];
        assert_eq!(chosen("r", &open[..1], None, false).unwrap(), &open[..1]);
        assert_eq!(chosen("r", &open, Some("ab2"), false).unwrap(), &open[1..]);
        assert_eq!(chosen("r", &open, None, true).unwrap().len(), 2);
        assert!(chosen("r", &open, None, false).is_err());
        assert!(chosen("r", &open, Some("ab"), false).is_err());
        assert!(chosen("r", &open, Some("x"), false).is_err());
        assert!(chosen("r", &[], None, true).is_err());
    }
}
