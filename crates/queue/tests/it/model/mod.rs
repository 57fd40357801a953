//! Random histories on a real server, compared after every command with a model of the queue: the lists in
//! order, leases, due times, deliveries, epochs, and what every call answered.
//!
//! `PROPTEST_CASES=n` runs n histories from a random seed; otherwise a few dozen from a fixed one.

mod state;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use state::{Run, Target};
use std::sync::atomic::{AtomicU64, Ordering};
use testkit::Redis;
use world::{World, Wrong};

/// Histories of an ordinary test run, and the most commands of one.
const CASES: u32 = 80;
const STRICT_CASES: u32 = 20;
const LONGEST: usize = 45;
const SEED: [u8; 32] = [7; 32];
const MOST_SHRINKS: u32 = 2000;
/// Histories within which a broken script must be found.
const MUTANT_CASES: u32 = 400;
/// Faults of the kind that the model is there for.
const MUTATIONS: [crate::lua54::Mutation; 9] = [
    // A hand-back to the end of the line, a settlement by a worker that lost its claim.
    (
        "call('RPUSH', LIST[list], element)",
        "call('LPUSH', LIST[list], element)",
    ),
    ("elseif epoch ~= epochs[i] then", "elseif false then"),
    // Deliveries that are not counted, epochs that stand still, jobs that stay in line while they run.
    ("int(tonumber(d) + 1)", "d"),
    (
        "math.max(math.abs(tonumber(e)) + 1, now_us)",
        "math.abs(tonumber(e))",
    ),
    ("call('LTRIM', PENDING, 0, high - count - 1)", ""),
    // The order of what a sweep puts back, a retry without its time, a place that is not kept.
    ("for i = #expired, 1, -1 do", "for i = 1, #expired do"),
    ("call('ZADD', DUE, int(due), id)", ""),
    ("call('HSET', PLACE, head_id, int(place))", ""),
    // A renewal that takes a job from its new owner.
    (
        "if not (m.epoch == 0 and m.list ~= 'processing' and emptied) then return 'lost' end",
        "",
    ),
];

/// A command. Numbers choose among what is there at that time, so that any shorter history makes sense too.
#[derive(Debug, Clone)]
enum Op {
    Push(Run),
    PushMany(Vec<Run>),
    PushRetry(Run),
    PushText(Run),
    PushBare,
    PushGarbage(u8, bool),
    Claim(usize, usize),
    LoseAnswer(usize, usize),
    Ack(usize),
    AckAll(usize),
    Release(usize, Target),
    Rewrite(usize),
    Renew(usize, bool),
    Expire(usize),
    /// A lease runs out and a sweep finds it.
    LoseLease(usize),
    ComeDue(usize),
    Sweep,
    Audit,
    Pause(bool),
    Remove(Run),
    Requeue(usize),
    Drop(usize),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let run = 0..8_u32;
    let worker = 0..world::WORKERS;
    let target = prop_oneof![Just(Target::Retry), Just(Target::Failed), Just(Target::Home)];
    prop_oneof![
        6 => run.clone().prop_map(Op::Push),
        4 => prop::collection::vec(run.clone(), 1..8).prop_map(Op::PushMany),
        2 => run.clone().prop_map(Op::PushRetry),
        2 => run.clone().prop_map(Op::PushText),
        2 => Just(Op::PushBare),
        1 => (0..3_u8, any::<bool>()).prop_map(|(text, high)| Op::PushGarbage(text, high)),
        12 => (worker.clone(), 1..6_usize).prop_map(|(worker, want)| Op::Claim(worker, want)),
        3 => (worker.clone(), 1..6_usize).prop_map(|(worker, want)| Op::LoseAnswer(worker, want)),
        5 => any::<usize>().prop_map(Op::Ack),
        2 => any::<usize>().prop_map(Op::AckAll),
        8 => (any::<usize>(), target).prop_map(|(at, target)| Op::Release(at, target)),
        2 => any::<usize>().prop_map(Op::Rewrite),
        6 => (worker, any::<bool>()).prop_map(|(worker, settled)| Op::Renew(worker, settled)),
        5 => any::<usize>().prop_map(Op::Expire),
        5 => any::<usize>().prop_map(Op::LoseLease),
        4 => any::<usize>().prop_map(Op::ComeDue),
        3 => Just(Op::Sweep),
        1 => Just(Op::Audit),
        1 => any::<bool>().prop_map(Op::Pause),
        2 => run.prop_map(Op::Remove),
        2 => any::<usize>().prop_map(Op::Requeue),
        1 => any::<usize>().prop_map(Op::Drop),
        1 => Just(Op::Flush),
    ]
}

#[test]
fn random_histories_end_as_the_model_says() {
    let found = play(CASES, true, Redis::port);
    assert!(found.is_none(), "{}", found.unwrap());
}

#[test]
fn random_histories_end_as_the_model_says_on_a_server_with_lua_5_4_and_declared_keys_only() {
    let found = play(STRICT_CASES, true, |redis| {
        crate::lua54::start(redis.port(), None)
    });
    assert!(found.is_none(), "{}", found.unwrap());
}

#[test]
fn random_histories_find_every_broken_script() {
    for mutation in MUTATIONS {
        let piece = mutation.0;
        let sources = crate::conformance::scripts();
        assert!(
            sources.iter().any(|(_, source)| source.contains(piece)),
            "no script has {piece}"
        );
        let found = play(MUTANT_CASES, false, |redis| {
            crate::lua54::start(redis.port(), Some(mutation))
        });
        assert!(found.is_some(), "not found: {piece}");
    }
}

/// What is wrong with the first history that does not end as the model says.
fn play(cases: u32, shrink: bool, port: impl Fn(&Redis) -> u16) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let redis = runtime.block_on(Redis::start());
    let port = port(&redis);
    let number = AtomicU64::new(0);
    let histories = prop::collection::vec(op(), 1..LONGEST);
    let outcome = runner(cases, shrink).run(&histories, |ops| {
        let prefix = format!("m{}", number.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let mut world = World::open(redis.port(), port, &prefix).await;
            for (at, op) in ops.iter().enumerate() {
                world.step(op).await.map_err(|wrong| match wrong {
                    Wrong::Unanswered => TestCaseError::reject("no answer in time"),
                    Wrong::Differs(text) => TestCaseError::fail(format!("command {at}, {op:?}: {text}")),
                })?;
            }
            Ok(())
        })
    });
    outcome.err().map(|fault| fault.to_string())
}

fn runner(cases: u32, shrink: bool) -> TestRunner {
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: if shrink { MOST_SHRINKS } else { 0 },
        ..Config::default()
    };
    if shrink && std::env::var_os("PROPTEST_CASES").is_some() {
        return TestRunner::new(config);
    }
    let config = Config { cases, ..config };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED))
}
