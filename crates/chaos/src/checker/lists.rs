//! Rules over the lists of Redis, after everything has come to rest.

use std::collections::BTreeSet;

use super::{LIVE, Violation};
use crate::facts::{Facts, Job};

pub(super) fn every_live_run_is_in_one_list_and_no_other_in_any(facts: &Facts) -> Vec<Violation> {
    let mut found = Vec::new();
    for (run_id, run) in &facts.runs {
        let places = facts.lists.of_run(run_id);
        let wanted = usize::from(LIVE.contains(&run.status.as_str()));
        if places.len() != wanted {
            let detail = format!("{} and in {places:?}", run.status);
            found.push(Violation::of("run_in_wrong_lists", run_id, detail));
        }
        let letters = facts.lists.failed.iter().filter(|job| &job.run_id == run_id);
        if letters.count() > usize::from(run.status == "failed") {
            let detail = format!("{} and in the dead letters", run.status);
            found.push(Violation::of("run_in_wrong_lists", run_id, detail));
        }
    }
    for (name, jobs) in facts.lists.live() {
        for job in jobs.iter().filter(|job| !facts.runs.contains_key(&job.run_id)) {
            found.push(Violation::of("unknown_run_in_list", &job.run_id, name));
        }
    }
    if facts.outbox != 0 {
        found.push(Violation::general(
            "outbox_not_empty",
            format!("{} rows", facts.outbox),
        ));
    }
    found
}

/// Each job in `processing` has a lease and the other way round; the same for `retry` and its times.
pub(super) fn the_index_of_each_list_agrees_with_it(facts: &Facts) -> Vec<Violation> {
    let pairs = [
        ("processing", &facts.lists.processing, &facts.lists.lease),
        ("retry", &facts.lists.retry, &facts.lists.due),
    ];
    let differs = |(name, jobs, index): (&str, &Vec<Job>, &Vec<String>)| {
        let listed: BTreeSet<&str> = jobs.iter().map(|job| job.job_id.as_str()).collect();
        let indexed: BTreeSet<&str> = index.iter().map(String::as_str).collect();
        let detail = format!("{name} holds {listed:?}, its index {indexed:?}");
        (listed != indexed).then(|| Violation::general("list_and_index_differ", detail))
    };
    pairs.into_iter().filter_map(differs).collect()
}
