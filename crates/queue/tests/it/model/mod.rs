//! Random histories on a real server, compared after every command with a model of the queue: the lists in
//! order, leases, due times, deliveries, epochs, and what every call answered.
//!
//! `PROPTEST_CASES=n` runs n histories from a random seed; otherwise a few hundred from a fixed one.

mod state;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use state::{Run, Target};
use std::sync::atomic::{AtomicU64, Ordering};
use testkit::Redis;
use world::World;

/// Histories of an ordinary test run, and the most commands of one.
const CASES: u32 = 250;
const LONGEST: usize = 45;
const SEED: [u8; 32] = [7; 32];

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
        4 => (worker, any::<bool>()).prop_map(|(worker, settled)| Op::Renew(worker, settled)),
        4 => any::<usize>().prop_map(Op::Expire),
        4 => any::<usize>().prop_map(Op::ComeDue),
        4 => Just(Op::Sweep),
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let redis = runtime.block_on(Redis::start());
    let cases = AtomicU64::new(0);
    let histories = prop::collection::vec(op(), 1..LONGEST);
    let outcome = runner().run(&histories, |ops| {
        let prefix = format!("m{}", cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(async {
            let mut world = World::open(&redis, &prefix).await;
            for (at, op) in ops.iter().enumerate() {
                let step = world.step(op).await;
                step.map_err(|fault| TestCaseError::fail(format!("command {at}, {op:?}: {fault}")))?;
            }
            Ok(())
        })
    });
    if let Err(fault) = outcome {
        panic!("{fault}");
    }
}

fn runner() -> TestRunner {
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return TestRunner::new(config);
    }
    let config = Config {
        cases: CASES,
        ..config
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED))
}
