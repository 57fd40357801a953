//! The independent checker: pure functions from the history and the final state to violations.
//!
//! It knows the contract, not the code. Times of the history and of `completed_at` come from one machine's clock; where
//! two of them are compared the margin is named. When the clock of a program was moved, nothing is compared.

mod calls;
mod lists;
mod live;
mod rows;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::facts::Facts;
use crate::history::{Entry, Record};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub rule: &'static str,
    pub run_id: Option<String>,
    pub detail: String,
}

impl Violation {
    fn of(rule: &'static str, run_id: &str, detail: impl Into<String>) -> Self {
        Self {
            rule,
            run_id: Some(run_id.to_owned()),
            detail: detail.into(),
        }
    }

    fn general(rule: &'static str, detail: impl Into<String>) -> Self {
        Self {
            rule,
            run_id: None,
            detail: detail.into(),
        }
    }
}

/// Statuses of a run that still needs a worker.
const LIVE: [&str; 3] = ["queued", "planning", "executing"];
/// Statuses of a run to which nothing is added.
const FINAL: [&str; 4] = ["completed", "failed", "cancelled", "timeout"];

/// A program's clock was moved on purpose: its times mean nothing beside the history's.
fn clock_was_moved(records: &[Record]) -> bool {
    let moves = |record: &Record| matches!(&record.entry, Entry::Fault { name, .. } if name == "clock_step");
    records.iter().any(moves)
}

/// Every rule, over everything.
pub fn check(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(rows::nothing_acknowledged_is_missing(records, facts));
    found.extend(rows::every_started_run_has_an_end_or_a_named_wait(records, facts));
    found.extend(rows::seqs_are_gapless_and_end_with_one_complete(facts));
    found.extend(rows::status_walks_along_the_table(facts));
    found.extend(rows::steps_are_numbered_and_told_once(facts));
    found.extend(rows::counters_equal_the_rows(facts));
    found.extend(rows::the_ledger_tells_the_same_as_the_rows(facts));
    found.extend(calls::no_earlier_step_is_called_after_a_later_one(records));
    found.extend(calls::no_answered_step_is_called_again(records));
    found.extend(calls::at_most_once_effects_count_once(records));
    found.extend(calls::tokens_of_accepted_calls_never_fall(records));
    found.extend(calls::no_stale_worker_settles_a_step(records, facts));
    if !clock_was_moved(records) {
        found.extend(calls::no_settled_step_is_called_again(records, facts));
        found.extend(calls::nothing_is_called_after_the_end(records, facts));
    }
    found.extend(lists::every_live_run_is_in_one_list_and_no_other_in_any(facts));
    found.extend(lists::the_index_of_each_list_agrees_with_it(facts));
    found.extend(live::programs_end_only_as_allowed(records, facts));
    found.extend(live::no_run_is_seen_misplaced(records));
    found.extend(live::no_unknown_run_is_buried(records, facts));
    found
}
