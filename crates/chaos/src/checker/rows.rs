//! Rules over the rows of Postgres.

use std::collections::BTreeMap;

use super::{FINAL, LIVE, Violation};
use crate::facts::{Event, Facts};
use crate::history::{Entry, Record};

pub(super) fn nothing_acknowledged_is_missing(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let missing = |record: &Record| {
        let (run_id, started) = match &record.entry {
            Entry::Created { run_id } => (run_id, false),
            Entry::Started { run_id } => (run_id, true),
            _ => return None,
        };
        let detail = match facts.runs.get(run_id) {
            None => "an acknowledged run does not exist",
            Some(run) if started && run.status == "created" => "an acknowledged start is gone",
            Some(_) => return None,
        };
        Some(Violation::of("acknowledged_run_missing", run_id, detail))
    };
    records.iter().filter_map(missing).collect()
}

pub(super) fn every_started_run_has_an_end_or_a_named_wait(
    records: &[Record],
    facts: &Facts,
) -> Vec<Violation> {
    let stuck = |record: &Record| {
        let Entry::Started { run_id } = &record.entry else {
            return None;
        };
        let run = facts.runs.get(run_id)?;
        let detail = match run.status.as_str() {
            "waiting_user" if run.waits_for.is_none() => "waits and does not say for what".to_owned(),
            status if LIVE.contains(&status) => format!("still {status} at the end of the settle phase"),
            _ => return None,
        };
        Some(Violation::of("run_never_ends", run_id, detail))
    };
    records.iter().filter_map(stuck).collect()
}

pub(super) fn seqs_are_gapless_and_end_with_one_complete(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (run_id, run) in &facts.runs {
        let none = Vec::new();
        let events = facts.events.get(run_id).unwrap_or(&none);
        let expected = 1..=events.len() as i64;
        if !events.iter().map(|event| event.seq).eq(expected) || run.last_seq != events.len() as i64 {
            let detail = format!("{} events, last_seq {}", events.len(), run.last_seq);
            found.push(Violation::of("seq_not_gapless", run_id, detail));
        }
        let completes = events.iter().filter(|event| event.log_type == "complete").count();
        let ended = FINAL.contains(&run.status.as_str());
        let last_is_complete = events.last().is_some_and(|event| event.log_type == "complete");
        if completes != usize::from(ended) || last_is_complete != ended {
            let detail = format!("status {}, {completes} times complete", run.status);
            found.push(Violation::of("complete_not_once_and_last", run_id, detail));
        }
        if let Some(pair) = events.windows(2).find(|pair| pair[1].at_us <= pair[0].at_us) {
            let detail = format!("times do not rise at seq {}", pair[1].seq);
            found.push(Violation::of("event_times_fall", run_id, detail));
        }
    }
    found
}

/// The table of AA-58.
fn may_become(from: &str, to: &str) -> bool {
    match from {
        "created" => matches!(to, "queued" | "cancelled"),
        "queued" => matches!(to, "planning" | "cancelled" | "failed"),
        "planning" => matches!(to, "executing" | "failed" | "cancelled" | "timeout"),
        "executing" => matches!(
            to,
            "completed" | "failed" | "cancelled" | "timeout" | "waiting_user" | "paused"
        ),
        "waiting_user" => matches!(to, "executing" | "cancelled" | "timeout"),
        "paused" => matches!(to, "executing" | "cancelled"),
        _ => false,
    }
}

pub(super) fn status_walks_along_the_table(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (run_id, run) in &facts.runs {
        let mut present = "created";
        for event in facts.events.get(run_id).into_iter().flatten() {
            if event.log_type != "state_transition" {
                continue;
            }
            let (from, to) = (event.text("from_status"), event.text("to_status"));
            if from != present || !may_become(from, to) {
                let detail = format!("seq {}: {from} -> {to} while {present}", event.seq);
                found.push(Violation::of("status_off_the_table", run_id, detail));
            }
            present = to;
        }
        if present != run.status {
            let detail = format!("the events lead to {present}, the row says {}", run.status);
            found.push(Violation::of("status_off_the_table", run_id, detail));
        }
    }
    found
}

/// How often each step has an event that `matches`.
fn tally(events: &[Event], matches: impl Fn(&Event) -> bool) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for event in events.iter().filter(|event| matches(event)) {
        *tally.entry(event.text("step_id")).or_default() += 1;
    }
    tally
}

pub(super) fn steps_are_numbered_and_told_once(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (run_id, steps) in &facts.steps {
        if !steps.iter().map(|step| step.number).eq(1..=steps.len() as i64) {
            found.push(Violation::of(
                "step_numbers_not_gapless",
                run_id,
                format!("{} steps", steps.len()),
            ));
        }
        let none = Vec::new();
        let events = facts.events.get(run_id).unwrap_or(&none);
        let calls = tally(events, |event| event.text("event") == "tool_call");
        let results = tally(events, |event| {
            matches!(event.log_type.as_str(), "tool_success" | "tool_error")
        });
        for step in steps {
            let settled = matches!(step.status.as_str(), "completed" | "failed" | "cancelled");
            let told =
                |tally: &BTreeMap<&str, usize>| tally.get(step.id.as_str()).copied().unwrap_or_default();
            let (calls, results) = (told(&calls), told(&results));
            // A step that was stopped before it began may have no event at all.
            let untold = step.status == "cancelled" && (calls, results) == (0, 0);
            if !untold && (calls > 1 || results != usize::from(settled)) {
                let detail = format!(
                    "step {} is {}: {calls} calls, {results} results",
                    step.number, step.status
                );
                found.push(Violation::of("step_not_told_once", run_id, detail));
            }
            let ended = facts
                .runs
                .get(run_id)
                .is_some_and(|run| FINAL.contains(&run.status.as_str()));
            if ended && step.status == "running" {
                found.push(Violation::of(
                    "step_runs_after_the_end",
                    run_id,
                    format!("step {}", step.number),
                ));
            }
            if step.tool == "file_write" && step.status == "completed" && step.artifacts != 1 {
                let detail = format!("step {} has {} artifacts", step.number, step.artifacts);
                found.push(Violation::of("artifact_not_once", run_id, detail));
            }
        }
    }
    found
}

pub(super) fn counters_equal_the_rows(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (run_id, run) in &facts.runs {
        let steps = facts.steps.get(run_id);
        let count = |status: &str| {
            let of = steps.into_iter().flatten();
            of.filter(|step| status.is_empty() || step.status == status)
                .count() as i64
        };
        let rows = (count(""), count("completed"), count("failed"));
        let counters = (run.total_steps, run.completed_steps, run.failed_steps);
        if rows != counters {
            let detail = format!("total, completed, failed: counters {counters:?}, rows {rows:?}");
            found.push(Violation::of("counters_differ", run_id, detail));
        }
        if !run.credits.is_empty() {
            found.push(Violation::of(
                "counters_differ",
                run_id,
                format!("credits: {}", run.credits),
            ));
        }
    }
    found
}

/// The ledger that the API shows is the steps of Postgres: the same ones, in the same order, with the same end.
pub(super) fn the_ledger_tells_the_same_as_the_rows(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    let none = Vec::new();
    for (run_id, ledger) in &facts.ledger {
        let steps = facts.steps.get(run_id).unwrap_or(&none);
        let same = ledger
            .iter()
            .map(|effect| &effect.step_id)
            .eq(steps.iter().map(|step| &step.id));
        if !same {
            let detail = format!("{} entries, {} steps", ledger.len(), steps.len());
            found.push(Violation::of("ledger_differs", run_id, detail));
            continue;
        }
        for (effect, step) in ledger.iter().zip(steps) {
            let settled = !matches!(step.status.as_str(), "running" | "pending");
            if (effect.state == "settled") != settled || !effect.key.starts_with(run_id) {
                let detail = format!("step {} is {}, its entry {effect:?}", step.number, step.status);
                found.push(Violation::of("ledger_differs", run_id, detail));
            }
        }
    }
    found
}
