//! Rules over what was seen while the system ran.

use std::collections::BTreeMap;

use super::Violation;
use crate::facts::Facts;
use crate::history::{Entry, Record};

/// AA-68: after Redis has lost data every run is back in the right list within this time.
const REBUILD_LIMIT_US: i64 = 30_000_000;
/// Reasons of dead letters for ids and texts that nobody pushed.
const NEVER: [&str; 2] = ["unknown_run", "undecodable"];

pub(super) fn programs_end_only_as_allowed(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let wrong = |record: &Record| match &record.entry {
        Entry::Exit {
            node,
            code,
            watchdog: false,
        } => {
            let detail = format!("{node} ended by itself with {code:?}");
            Some(Violation::general("program_ended", detail))
        }
        _ => None,
    };
    let panicked = |line: &String| Violation::general("program_panicked", line.clone());
    let ends = records.iter().filter_map(wrong);
    ends.chain(facts.panics.iter().map(panicked)).collect()
}

/// A run that goes on gets a new job. The old one may still lie with a worker that has not let go, or that was lost, until
/// its lease (9 s) is over, a sweep has met it, and the worker that got it next has let it go in its turn.
const OLD_JOB_LIMIT_US: i64 = 30_000_000;

/// One violation per run: the first sighting that neither a loss of Redis nor a run going on excuses.
pub(super) fn no_run_is_seen_misplaced(records: &[Record]) -> Vec<Violation> {
    let mut lost_us = i64::MIN / 2;
    let mut went_on_us: BTreeMap<&str, i64> = BTreeMap::new();
    let mut first: BTreeMap<&str, String> = BTreeMap::new();
    let mut sightings: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records {
        match &record.entry {
            Entry::Fault {
                loses_redis: true, ..
            } => lost_us = record.at_us,
            Entry::Acted { run_id, .. } | Entry::Deciding { run_id, .. } => {
                went_on_us.insert(run_id, record.at_us);
            }
            Entry::Misplaced {
                run_id,
                detail,
                two_jobs,
            } => {
                let since =
                    |from_us: Option<&i64>| from_us.map_or(i64::MAX, |from_us| record.at_us - from_us);
                let excused = *two_jobs && since(went_on_us.get(run_id.as_str())) < OLD_JOB_LIMIT_US;
                if excused || record.at_us - lost_us < REBUILD_LIMIT_US {
                    continue;
                }
                *sightings.entry(run_id).or_default() += 1;
                first.entry(run_id).or_insert_with(|| detail.clone());
            }
            _ => {}
        }
    }
    let violation = |(run_id, detail): (&str, String)| {
        let detail = format!("{detail}; {} sightings", sightings[run_id]);
        Violation::of("live_run_misplaced", run_id, detail)
    };
    first.into_iter().map(violation).collect()
}

pub(super) fn no_unknown_run_is_buried(records: &[Record], facts: &Facts) -> Vec<Violation> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for record in records {
        if let Entry::DeadLetter { run_id, reason } = &record.entry
            && NEVER.contains(&reason.as_str())
        {
            found.insert(run_id, reason);
        }
    }
    for job in facts
        .lists
        .failed
        .iter()
        .filter(|job| NEVER.contains(&job.reason.as_str()))
    {
        found.insert(&job.run_id, &job.reason);
    }
    let violation = |(run_id, reason)| Violation::of("impossible_dead_letter", run_id, reason);
    found.into_iter().map(violation).collect()
}
