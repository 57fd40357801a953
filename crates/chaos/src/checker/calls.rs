//! Rules over the calls that reached the world outside.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Violation;
use crate::counting::STALE_TEXT;
use crate::facts::{Facts, Step};
use crate::history::{Call, Entry, Record, Verdict};

/// Between reading the clock for `completed_at` and the call's line in the history, both on one machine.
const CLOCK_MARGIN_US: i64 = 50_000;
/// A run that was stopped from outside may have a call under way: its worker hears of the stop by a signal or at the next
/// renewal, and one that was frozen hears of it only when it wakes. So only ends that the worker itself wrote count.
const ENDS_BY_WORKER: [&str; 1] = ["completed"];

fn accepted(records: &[Record]) -> impl Iterator<Item = (i64, &Call)> {
    records.iter().filter_map(|record| match &record.entry {
        Entry::Call(call) if call.verdict == Verdict::Accepted => Some((record.at_us, call)),
        _ => None,
    })
}

/// Settled steps whose end the run's own worker wrote, by id.
fn settled(facts: &Facts) -> HashMap<&str, (&Step, i64)> {
    let all = facts.steps.values().flatten();
    let by_worker = all.filter(|step| matches!(step.status.as_str(), "completed" | "failed"));
    by_worker
        .filter_map(|step| Some((step.id.as_str(), (step, step.completed_us?))))
        .collect()
}

pub(super) fn no_settled_step_is_called_again(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let settled = settled(facts);
    let again = |(at_us, call): (i64, &Call)| {
        let (step, completed_us) = settled.get(call.step_id.as_str())?;
        let late_us = at_us - completed_us;
        let detail = format!(
            "step {} was called {late_us} µs after it had settled",
            step.number
        );
        (late_us > CLOCK_MARGIN_US).then(|| Violation::of("settled_step_called_again", &call.run_id, detail))
    };
    accepted(records).filter_map(again).collect()
}

/// The turn in `{run_id}:{turn}:{action}`.
fn turn(key: &str) -> Option<u32> {
    key.rsplit(':').nth(1)?.parse().ok()
}

pub(super) fn no_earlier_step_is_called_after_a_later_one(records: &[Record]) -> Vec<Violation> {
    let mut latest: HashMap<&str, u32> = HashMap::new();
    let mut found = Vec::new();
    for (_, call) in accepted(records) {
        let Some(turn) = turn(&call.key) else {
            let detail = format!("idempotency key {:?}", call.key);
            found.push(Violation::of("malformed_idempotency_key", &call.run_id, detail));
            continue;
        };
        let latest = latest.entry(&call.run_id).or_default();
        if turn < *latest {
            let detail = format!(
                "{} of turn {turn} was called after one of turn {latest}",
                call.tool
            );
            found.push(Violation::of("earlier_step_called_again", &call.run_id, detail));
        }
        *latest = turn.max(*latest);
    }
    found
}

/// An operator's `retry` whose reply was lost may be taken later than he looked; each such allows one more call.
pub(super) fn at_most_once_effects_count_once(records: &[Record]) -> Vec<Violation> {
    let mut counts: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (_, call) in accepted(records).filter(|(_, call)| call.tool == "count_at_most_once") {
        *counts.entry((&call.run_id, &call.step_id)).or_default() += 1;
    }
    let retries = |wanted: &str| {
        let sent = records.iter().filter(|record| match &record.entry {
            Entry::Deciding {
                step_id, decision, ..
            } => step_id == wanted && decision == "retry",
            _ => false,
        });
        let answered = records.iter().filter(|record| match &record.entry {
            Entry::Decided {
                step_id, decision, ..
            } => step_id == wanted && decision == "retry",
            _ => false,
        });
        sent.count() as i64 - answered.count() as i64
    };
    let twice = counts
        .into_iter()
        .filter(|((_, step_id), count)| *count > 1 && *count > 1 + retries(step_id));
    twice
        .map(|((run_id, step_id), count)| {
            let detail = format!("step {step_id} took effect {count} times");
            Violation::of("at_most_once_repeated", run_id, detail)
        })
        .collect()
}

pub(super) fn tokens_of_accepted_calls_never_fall(records: &[Record]) -> Vec<Violation> {
    let mut highest: HashMap<&str, i64> = HashMap::new();
    let mut found = Vec::new();
    for (_, call) in accepted(records) {
        let highest = highest.entry(&call.run_id).or_insert(call.token);
        if call.token < *highest {
            let detail = format!("token {} after {highest}", call.token);
            found.push(Violation::of("fencing_token_fell", &call.run_id, detail));
        }
        *highest = call.token.max(*highest);
    }
    found
}

/// Three marks of a result that a worker stored after it had lost its run: the refusal of a stale call inside it, that the
/// step was completed before the newest claim's call was answered, or that its stored epoch is older than that call's.
pub(super) fn no_stale_worker_settles_a_step(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (run_id, steps) in &facts.steps {
        for step in steps.iter().filter(|step| step.result.contains(STALE_TEXT)) {
            let detail = format!("step {} holds the answer to a stale call", step.number);
            found.push(Violation::of("stale_write_accepted", run_id, detail));
        }
    }
    let decided: HashSet<&str> = records
        .iter()
        .filter_map(|record| match &record.entry {
            Entry::Deciding { step_id, .. } => Some(step_id.as_str()),
            _ => None,
        })
        .collect();
    let mut newest: BTreeMap<&str, &Call> = BTreeMap::new();
    for (_, call) in accepted(records) {
        let newest = newest.entry(&call.step_id).or_insert(call);
        if call.token >= newest.token {
            *newest = call;
        }
    }
    let (settled, answers) = (settled(facts), answers(records));
    for (step_id, call) in newest
        .into_iter()
        .filter(|(step_id, _)| !decided.contains(step_id))
    {
        let Some((step, completed_us)) = settled.get(step_id) else {
            continue;
        };
        let answered_us = answers.get(&(call.key.as_str(), call.token));
        let in_time = answered_us.is_some_and(|at_us| *at_us <= completed_us + CLOCK_MARGIN_US);
        if step.status == "completed" && !in_time && !super::clock_was_moved(records) {
            let detail = format!(
                "step {} was completed before the call of token {} was answered",
                step.number, call.token
            );
            found.push(Violation::of("stale_write_accepted", &call.run_id, detail));
        }
        if let Some(epoch) = step.settled_epoch.filter(|epoch| *epoch < call.token) {
            let detail = format!(
                "step {} was settled under epoch {epoch} and called under {}",
                step.number, call.token
            );
            found.push(Violation::of("stale_write_accepted", &call.run_id, detail));
        }
    }
    found
}

/// A worker that was left alone for this long after its call was answered must have stored the result.
const UNDISTURBED_US: i64 = 2_000_000;

/// A result that was known is stored before anything else happens: when no fault came within [`UNDISTURBED_US`] of the
/// answer, no other claim may call the step again.
pub(super) fn no_answered_step_is_called_again(records: &[Record]) -> Vec<Violation> {
    let disturbed = |from_us: i64| {
        let until_us = from_us + UNDISTURBED_US;
        let faults = records
            .iter()
            .filter(|record| matches!(record.entry, Entry::Fault { .. }));
        // A fault that came shortly before may still last.
        faults
            .clone()
            .any(|record| (from_us - 20_000_000..until_us).contains(&record.at_us))
    };
    let answers = answers(records);
    let mut first: HashMap<&str, &Call> = HashMap::new();
    let mut found = Vec::new();
    for (at_us, call) in accepted(records) {
        let earlier = *first.entry(&call.key).or_insert(call);
        let Some(answered_us) = answers.get(&(earlier.key.as_str(), earlier.token)) else {
            continue;
        };
        let again = call.token > earlier.token && at_us > answered_us + UNDISTURBED_US;
        if again && !disturbed(*answered_us) {
            let detail = format!(
                "{} was called again {} µs after its answer",
                call.tool,
                at_us - answered_us
            );
            found.push(Violation::of("answered_step_called_again", &call.run_id, detail));
        }
    }
    found
}

/// When each call (idempotency key and token) got its first whole answer.
fn answers(records: &[Record]) -> HashMap<(&str, i64), i64> {
    let mut answers = HashMap::new();
    for record in records {
        if let Entry::Answered {
            key,
            token,
            cut: false,
            ..
        } = &record.entry
        {
            answers.entry((key.as_str(), *token)).or_insert(record.at_us);
        }
    }
    answers
}

pub(super) fn nothing_is_called_after_the_end(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let end = |run_id: &str| {
        let run = facts.runs.get(run_id)?;
        let last = facts.events.get(run_id)?.last()?;
        ENDS_BY_WORKER
            .contains(&run.status.as_str())
            .then_some(last.at_us)
    };
    let late = |(at_us, call): (i64, &Call)| {
        let late_us = at_us - end(&call.run_id)?;
        let detail = format!("{} was called {late_us} µs after complete", call.tool);
        (late_us > CLOCK_MARGIN_US).then(|| Violation::of("called_after_the_end", &call.run_id, detail))
    };
    accepted(records).filter_map(late).collect()
}
