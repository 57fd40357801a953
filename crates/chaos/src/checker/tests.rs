//! Hand-made histories: each rule finds its fault and leaves the sound one alone.

use serde_json::{Value, json};

use super::{Violation, check};
use crate::counting::STALE_TEXT;
use crate::facts::{Effect, Event, Facts, Job, Run, Step};
use crate::history::{Call, Entry, Record, Verdict};

const RUN: &str = "run-1";
const SECOND: i64 = 1_000_000;

fn at(second: i64, entry: Entry) -> Record {
    Record {
        at_us: second * SECOND,
        entry,
    }
}

fn call(tool: &str, turn: u32, token: i64) -> Entry {
    Entry::Call(Call {
        run_id: RUN.to_owned(),
        step_id: format!("step-{turn}"),
        tool: tool.to_owned(),
        key: format!("{RUN}:{turn}:0"),
        token,
        verdict: Verdict::Accepted,
    })
}

fn answered(turn: u32, token: i64) -> Entry {
    Entry::Answered {
        run_id: RUN.to_owned(),
        key: format!("{RUN}:{turn}:0"),
        token,
        cut: false,
    }
}

fn event(seq: i64, log_type: &str, metadata: Value) -> Event {
    Event {
        seq,
        log_type: log_type.to_owned(),
        metadata,
        at_us: seq * SECOND,
    }
}

fn walk(seq: i64, from: &str, to: &str) -> Event {
    event(
        seq,
        "state_transition",
        json!({"from_status": from, "to_status": to}),
    )
}

fn step(turn: i64, completed_second: i64) -> Step {
    Step {
        id: format!("step-{turn}"),
        number: turn,
        tool: "count_idempotent".to_owned(),
        status: "completed".to_owned(),
        completed_us: Some(completed_second * SECOND),
        ..Step::default()
    }
}

/// A run of two steps, called in seconds 4 and 6, that ends in second 10.
fn sound() -> (Vec<Record>, Facts) {
    let records = vec![
        at(
            1,
            Entry::Created {
                run_id: RUN.to_owned(),
            },
        ),
        at(
            1,
            Entry::Started {
                run_id: RUN.to_owned(),
            },
        ),
        at(4, call("count_idempotent", 1, 1)),
        at(5, answered(1, 1)),
        at(6, call("count_idempotent", 2, 1)),
        at(7, answered(2, 1)),
    ];
    let told = |turn: i64| json!({"event": "tool_call", "step_id": format!("step-{turn}")});
    let result = |turn: i64| json!({"step_id": format!("step-{turn}")});
    let events = vec![
        walk(1, "created", "queued"),
        walk(2, "queued", "planning"),
        walk(3, "planning", "executing"),
        event(4, "info", told(1)),
        event(5, "tool_success", result(1)),
        event(6, "info", told(2)),
        event(7, "tool_success", result(2)),
        walk(8, "executing", "completed"),
        event(9, "complete", json!({"status": "completed"})),
    ];
    let run = Run {
        status: "completed".to_owned(),
        total_steps: 2,
        completed_steps: 2,
        last_seq: 9,
        ..Run::default()
    };
    let mut facts = Facts::default();
    facts.runs.insert(RUN.to_owned(), run);
    facts.events.insert(RUN.to_owned(), events);
    facts.steps.insert(RUN.to_owned(), vec![step(1, 5), step(2, 7)]);
    (records, facts)
}

fn run(facts: &mut Facts) -> &mut Run {
    facts.runs.get_mut(RUN).unwrap()
}

fn events(facts: &mut Facts) -> &mut Vec<Event> {
    facts.events.get_mut(RUN).unwrap()
}

fn steps(facts: &mut Facts) -> &mut Vec<Step> {
    facts.steps.get_mut(RUN).unwrap()
}

/// The names of the rules that find something after `change`.
fn rules(change: impl FnOnce(&mut Vec<Record>, &mut Facts)) -> Vec<&'static str> {
    let (mut records, mut facts) = sound();
    change(&mut records, &mut facts);
    records.sort_by_key(|record| record.at_us);
    let mut rules: Vec<_> = check(&records, &facts)
        .iter()
        .map(|found: &Violation| found.rule)
        .collect();
    rules.dedup();
    rules
}

#[test]
fn a_sound_history_breaks_no_rule() {
    assert_eq!(rules(|_, _| {}), Vec::<&str>::new());
}

#[test]
fn an_acknowledged_run_that_is_not_there_is_found() {
    let found = rules(|records, _| {
        let run_id = "run-2".to_owned();
        records.push(at(2, Entry::Created { run_id }));
    });
    assert_eq!(found, ["acknowledged_run_missing"]);
}

#[test]
fn an_acknowledged_start_without_effect_is_found() {
    let found = rules(|_, facts| {
        *run(facts) = Run {
            status: "created".to_owned(),
            ..Run::default()
        };
        facts.events.clear();
        facts.steps.clear();
    });
    assert_eq!(found, ["acknowledged_run_missing"]);
}

#[test]
fn a_run_that_still_runs_is_found_and_one_that_waits_for_a_named_reason_is_not() {
    let still = |status: &'static str, waits_for: Option<&'static str>| {
        rules(move |_, facts| {
            run(facts).status = status.to_owned();
            run(facts).waits_for = waits_for.map(str::to_owned);
            events(facts).truncate(7);
            run(facts).last_seq = 7;
            if status == "executing" {
                facts.lists.processing = vec![job("processing")];
                facts.lists.lease = vec!["processing".to_owned()];
            } else {
                events(facts).push(walk(8, "executing", status));
                run(facts).last_seq = 8;
            }
        })
    };
    assert_eq!(still("executing", None), ["run_never_ends"]);
    assert_eq!(still("waiting_user", None), ["run_never_ends"]);
    assert_eq!(still("waiting_user", Some("user")), Vec::<&str>::new());
    assert_eq!(still("paused", None), Vec::<&str>::new());
}

fn job(job_id: &str) -> Job {
    Job {
        job_id: job_id.to_owned(),
        run_id: RUN.to_owned(),
        reason: String::new(),
    }
}

#[test]
fn a_gap_in_the_seqs_is_found() {
    let found = rules(|_, facts| {
        events(facts).remove(1);
        events(facts)[0].metadata["to_status"] = json!("planning");
    });
    assert!(found.contains(&"seq_not_gapless"), "{found:?}");
}

#[test]
fn a_second_complete_and_anything_after_it_are_found() {
    let twice = rules(|_, facts| {
        events(facts).push(event(10, "complete", json!({})));
        run(facts).last_seq = 10;
    });
    assert_eq!(twice, ["complete_not_once_and_last"]);
    let late = rules(|_, facts| {
        events(facts).push(event(10, "info", json!({})));
        run(facts).last_seq = 10;
    });
    assert_eq!(late, ["complete_not_once_and_last"]);
}

#[test]
fn a_status_off_the_table_is_found() {
    let found = rules(|_, facts| events(facts)[1] = walk(2, "queued", "executing"));
    assert_eq!(found, ["status_off_the_table"]);
}

#[test]
fn a_step_that_is_told_twice_is_found() {
    let found = rules(|_, facts| {
        let again = events(facts)[4].metadata.clone();
        events(facts)[5] = event(6, "tool_success", again);
    });
    assert!(found.contains(&"step_not_told_once"), "{found:?}");
}

#[test]
fn counters_that_differ_from_the_rows_are_found() {
    assert_eq!(
        rules(|_, facts| run(facts).completed_steps = 3),
        ["counters_differ"]
    );
}

#[test]
fn a_ledger_that_differs_from_the_rows_is_found() {
    let with = |states: &'static [&'static str]| {
        rules(move |_, facts| {
            let entry = |(number, state): (usize, &&str)| Effect {
                step_id: format!("step-{}", number + 1),
                state: (*state).to_owned(),
                key: format!("{RUN}:{}:0", number + 1),
            };
            let ledger = states.iter().enumerate().map(entry).collect();
            facts.ledger.insert(RUN.to_owned(), ledger);
        })
    };
    assert_eq!(with(&["settled", "settled"]), Vec::<&str>::new());
    assert_eq!(with(&["settled", "claimed"]), ["ledger_differs"]);
    assert_eq!(with(&["settled"]), ["ledger_differs"]);
}

#[test]
fn a_settled_step_that_is_called_again_is_found() {
    let found = rules(|records, _| records.push(at(8, call("count_idempotent", 2, 2))));
    assert!(found.contains(&"settled_step_called_again"), "{found:?}");
}

#[test]
fn an_earlier_step_after_a_later_one_is_found() {
    let found = rules(|records, facts| {
        records.push(at(8, call("count_idempotent", 1, 2)));
        records.push(at(9, answered(1, 2)));
        steps(facts)[0].completed_us = Some(9 * SECOND);
    });
    assert_eq!(found, ["earlier_step_called_again", "answered_step_called_again"]);
}

#[test]
fn an_at_most_once_effect_that_is_repeated_is_found() {
    let twice = |sent_retry: bool| {
        rules(move |records, facts| {
            records[4] = at(6, call("count_at_most_once", 2, 1));
            records.push(at(6, call("count_at_most_once", 2, 2)));
            records.push(at(7, answered(2, 2)));
            steps(facts)[1].completed_us = Some(7 * SECOND);
            if sent_retry {
                let (run_id, step_id) = (RUN.to_owned(), "step-2".to_owned());
                let decision = "retry".to_owned();
                records.push(at(
                    5,
                    Entry::Deciding {
                        run_id,
                        step_id,
                        decision,
                    },
                ));
            }
        })
    };
    assert_eq!(twice(false), ["at_most_once_repeated"]);
    assert_eq!(twice(true), Vec::<&str>::new());
}

#[test]
fn a_fencing_token_that_falls_is_found() {
    let found = rules(|records, _| records[2] = at(4, call("count_idempotent", 1, 5)));
    assert!(found.contains(&"fencing_token_fell"), "{found:?}");
}

#[test]
fn a_result_stored_by_a_worker_that_had_lost_its_run_is_found() {
    let refusal = rules(|_, facts| steps(facts)[1].result = format!("HTTP 409 {STALE_TEXT}"));
    assert_eq!(refusal, ["stale_write_accepted"]);
    let early = rules(|records, _| {
        records.push(at(7, call("count_idempotent", 2, 2)));
        records.push(at(9, answered(2, 2)));
    });
    assert_eq!(early, ["stale_write_accepted"]);
}

#[test]
fn an_answered_step_that_is_called_again_is_found_unless_something_disturbed_its_worker() {
    let again = |fault_second: i64| {
        rules(move |records, facts| {
            let (name, target) = ("worker_kill".to_owned(), String::new());
            let loses_redis = false;
            records.push(at(
                fault_second,
                Entry::Fault {
                    name,
                    target,
                    loses_redis,
                },
            ));
            records.push(at(50, call("count_idempotent", 2, 2)));
            records.push(at(51, answered(2, 2)));
            steps(facts)[1].completed_us = Some(52 * SECOND);
            events(facts).last_mut().unwrap().at_us = 53 * SECOND;
        })
    };
    assert_eq!(again(40), ["answered_step_called_again"]);
    assert_eq!(again(8), Vec::<&str>::new());
}

#[test]
fn a_result_stored_under_an_older_epoch_than_the_call_is_found() {
    let found = rules(|records, facts| {
        records[4] = at(6, call("count_idempotent", 2, 3));
        records[5] = at(7, answered(2, 3));
        steps(facts)[1].settled_epoch = Some(2);
    });
    assert_eq!(found, ["stale_write_accepted"]);
}

#[test]
fn a_call_after_the_end_is_found() {
    let found = rules(|records, _| records.push(at(12, call("count_pure", 3, 1))));
    assert_eq!(found, ["called_after_the_end"]);
}

#[test]
fn a_finished_run_in_a_list_and_an_index_that_differs_are_found() {
    let leftover = rules(|_, facts| facts.lists.pending.push(job("j")));
    assert_eq!(leftover, ["run_in_wrong_lists"]);
    let lease = rules(|_, facts| facts.lists.lease.push("j".to_owned()));
    assert_eq!(lease, ["list_and_index_differ"]);
}

#[test]
fn a_misplaced_run_is_found_unless_redis_has_just_lost_its_data() {
    let seen = |lost_second: i64| {
        rules(move |records, _| {
            let loss = |name: &str| Entry::Fault {
                name: name.to_owned(),
                target: String::new(),
                loses_redis: true,
            };
            records.push(at(lost_second, loss("redis_flushall")));
            records.push(at(40, misplaced(false)));
        })
    };
    assert_eq!(seen(9), ["live_run_misplaced"]);
    assert_eq!(seen(11), Vec::<&str>::new());
}

fn misplaced(two_jobs: bool) -> Entry {
    Entry::Misplaced {
        run_id: RUN.to_owned(),
        detail: String::new(),
        two_jobs,
    }
}

#[test]
fn two_jobs_of_a_run_are_found_unless_it_has_just_gone_on() {
    let seen = |second: i64, two_jobs: bool| {
        rules(move |records, _| {
            let action = "resume".to_owned();
            records.push(at(
                10,
                Entry::Acted {
                    run_id: RUN.to_owned(),
                    action,
                },
            ));
            records.push(at(second, misplaced(two_jobs)));
        })
    };
    assert_eq!(seen(41, true), ["live_run_misplaced"]);
    assert_eq!(seen(12, false), ["live_run_misplaced"]);
    assert_eq!(seen(12, true), Vec::<&str>::new());
}

#[test]
fn an_unknown_run_among_the_dead_letters_is_found() {
    let found = rules(|records, _| {
        let (run_id, reason) = (RUN.to_owned(), "unknown_run".to_owned());
        records.push(at(3, Entry::DeadLetter { run_id, reason }));
    });
    assert_eq!(found, ["impossible_dead_letter"]);
}

#[test]
fn a_program_that_ends_by_itself_or_panics_is_found_and_its_watchdog_is_not() {
    let exit = |watchdog: bool| {
        rules(move |records, _| {
            let (node, code) = ("worker-0".to_owned(), Some(70));
            records.push(at(3, Entry::Exit { node, code, watchdog }));
        })
    };
    assert_eq!(exit(false), ["program_ended"]);
    assert_eq!(exit(true), Vec::<&str>::new());
    let panic = rules(|_, facts| facts.panics.push("thread 'main' panicked at".to_owned()));
    assert_eq!(panic, ["program_panicked"]);
}
