//! Random schedules of the hand-off over the real [`Tails`], [`Viewer`] and reconciler, in virtual time: several
//! processes with small rings and pages, viewers that read slowly, are cut, and move to another process with their
//! cursor. What each viewer has got must be 1, 2, 3, … to `complete`, each once.
//!
//! A schedule follows from its seed. `STREAM_MODEL_SCHEDULES` plays more of them, `STREAM_MODEL_SEED` only one.

mod world;

use super::broken::Broken;
use super::frames::Form;
use super::tail::Sizes;
use super::viewer::{Pace, Setting, Viewer};
use super::{Tails, reconcile};
use domain::SystemClock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::{Bus, Dice, RUN, Store, World};

/// Schedules in an ordinary run.
const SCHEDULES: u64 = 20_000;
/// Schedules within which a wrong form must be found.
const TO_FIND: u64 = 3_000;
/// Virtual time within which every viewer has got everything: slow ones read for some seconds.
const PATIENCE: Duration = Duration::from_mins(1);

type Process = Tails<Store, Bus>;

/// What a viewer may suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Duplicate,
    Order,
    Gap,
    LostTail,
    /// The design's own checks found something that it excludes.
    Invariant,
}

/// Plays one schedule; what went wrong.
fn play(seed: u64, broken: Broken) -> Option<Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(schedule(seed, broken))
}

async fn schedule(seed: u64, broken: Broken) -> Option<Fault> {
    let mut dice = Dice::new(seed);
    let count = 3 + dice.below(12) as i64;
    let sizes = Sizes {
        ring_frames: dice.pick(&[2, 4, 8, 64]),
        // Some budgets hold no two rings.
        budget_bytes: dice.pick(&[300, 1_000_000, 1_000_000]),
        fill_page: dice.pick(&[1, 3, 10]),
        page: dice.pick(&[1, 3, 10]),
        ..Sizes::default()
    };
    let processes = 1 + dice.below(3) as usize;
    let world = World::new(seed, processes, broken);
    let stop = CancellationToken::new();
    let clock = Arc::new(SystemClock);
    let tails: Vec<Process> = (0..processes)
        .map(|number| {
            let (store, bus) = (Store(world.clone()), Bus(world.clone(), number));
            Tails::broken(store, bus, clock.clone(), (sizes, broken))
        })
        .collect();
    if broken != Broken::NoReconcile {
        for tails in &tails {
            tokio::spawn(reconcile::run(tails.clone(), stop.clone()));
        }
    }
    tokio::spawn(world.clone().write(count));
    tokio::spawn(world.clone().disturb());
    let mut clients = JoinSet::new();
    for _ in 0..=dice.below(3) {
        let dice = Dice::new(dice.next());
        clients.spawn(client(tails.clone(), dice, clock.clone()));
    }
    let mut worst = None;
    while let Some(seen) = clients.join_next().await {
        worst = worst.max(judge(&seen.unwrap(), count));
    }
    let excluded = tails.iter().any(|tails| tails.meter().violated() > 0);
    worst.or(excluded.then_some(Fault::Invariant))
}

/// What a viewer of its own speed gets, over cuts and moves.
async fn client(tails: Vec<Process>, mut dice: Dice, clock: Arc<SystemClock>) -> Vec<i64> {
    tokio::time::sleep(dice.ms(1_500)).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let form = dice.pick(&[Form::Default, Form::Default, Form::Named]);
    let slowness_ms = dice.pick(&[1, 1, 30, 200]);
    let mut seen: Vec<i64> = vec![];
    let mut at = dice.below(tails.len() as u64) as usize;
    loop {
        let setting = Setting {
            form,
            pace: Pace::default(),
            clock: clock.clone(),
        };
        let cursor = seen.last().copied().unwrap_or(0);
        let mut viewer = Viewer::new(tails[at].attach(RUN).await, cursor, setting);
        loop {
            let Ok(next) = tokio::time::timeout_at(deadline, viewer.next()).await else {
                return seen;
            };
            let Some(bytes) = next else { break };
            if take(&bytes, &mut seen) {
                return seen;
            }
            if dice.percent(30) {
                tokio::time::sleep(dice.ms(slowness_ms)).await;
            }
            if dice.percent(4) {
                break;
            }
        }
        drop(viewer);
        tokio::time::sleep(dice.ms(100)).await;
        if dice.percent(50) {
            at = dice.below(tails.len() as u64) as usize;
        }
    }
}

/// Adds the ids; `true` after `complete`.
fn take(bytes: &[u8], seen: &mut Vec<i64>) -> bool {
    let text = std::str::from_utf8(bytes).unwrap();
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    seen.extend(ids.map(|id| id.parse::<i64>().unwrap()));
    text.contains("event: complete\n") || text.contains("{\"type\":\"complete\"")
}

fn judge(seen: &[i64], count: i64) -> Option<Fault> {
    let mut sorted = seen.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if seen.iter().copied().eq(1..=count) {
        None
    } else if sorted.len() < seen.len() {
        Some(Fault::Duplicate)
    } else if !seen.is_sorted() {
        Some(Fault::Order)
    } else if sorted.last() == Some(&count) {
        Some(Fault::Gap)
    } else {
        Some(Fault::LostTail)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays schedules until `enough` faults are found, on two threads. Faults with how often, and the schedules played.
fn search(broken: Broken, schedules: u64, enough: u64) -> (BTreeMap<Fault, Vec<u64>>, u64) {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut faults = vec![];
        while found.load(Ordering::Relaxed) < enough {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= schedules {
                break;
            }
            if let Some(fault) = play(seed, broken) {
                found.fetch_add(1, Ordering::Relaxed);
                faults.push((fault, seed));
            }
        }
        faults
    };
    let mut faults: BTreeMap<Fault, Vec<u64>> = BTreeMap::new();
    std::thread::scope(|scope| {
        for thread in [scope.spawn(work), scope.spawn(work)] {
            for (fault, seed) in thread.join().unwrap() {
                faults.entry(fault).or_default().push(seed);
            }
        }
    });
    (faults, next.into_inner().min(schedules))
}

#[test]
fn twenty_thousand_schedules_give_every_viewer_everything_once_and_in_order() {
    if let Some(seed) = number("STREAM_MODEL_SEED") {
        assert_eq!(play(seed, Broken::Nothing), None);
        return;
    }
    let schedules = number("STREAM_MODEL_SCHEDULES").unwrap_or(SCHEDULES);
    let (faults, played) = search(Broken::Nothing, schedules, 10);
    assert!(faults.is_empty(), "faults with their seeds: {faults:?}");
    assert_eq!(played, schedules);
}

#[test]
fn every_wrong_form_of_the_hand_off_is_found() {
    let wrong = [
        Broken::StoreFirst,
        Broken::NoGapCheck,
        Broken::NoReconcile,
        Broken::GlobalSerial,
        Broken::HeadBump,
    ];
    for broken in wrong {
        // With a number of schedules: the share of those that go wrong.
        let told = number("STREAM_MODEL_SCHEDULES");
        let (schedules, enough) = told.map_or((TO_FIND, 1), |schedules| (schedules, u64::MAX));
        let (faults, played) = search(broken, schedules, enough);
        let counts: Vec<_> = faults.iter().map(|(fault, seeds)| (fault, seeds.len())).collect();
        eprintln!("{broken:?}: {played} schedules, {counts:?}");
        assert!(
            !faults.is_empty(),
            "{broken:?} was not found in {played} schedules"
        );
    }
}
