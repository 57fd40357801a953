//! The schedule: which fault comes when, drawn from the seed, so that the same seed gives the same order of faults.
//!
//! Rules that leave room for progress: never more than all workers but one are dead or stopped at a time, no store is away
//! longer than a few seconds, and one heavy fault of a store at a time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fault::{self, Heavy, Light};
use crate::history::{Entry, History};
use crate::system::{Node, StoreName, System};

/// How often the time comes in which Redis loses data, and how long it is. What follows is longer than the 30 s in which
/// entries may be missing.
const LOSS_PERIOD: Duration = Duration::from_secs(80);
const LOSS_PART: Duration = Duration::from_secs(25);

/// A harness that is broken itself must not go on as if it tested anything.
const SOUND: &str = "a fault is injected without a fault of the harness";

/// Which faults, and how dense.
#[derive(Debug, Clone)]
pub struct Plan {
    pub light: Vec<Light>,
    pub heavy: Vec<Heavy>,
    /// Between two light faults.
    pub light_every: Duration,
    /// Least and most time between two heavy faults, in milliseconds.
    pub heavy_every_ms: (u64, u64),
}

impl Plan {
    /// Everything that leaves the clocks alone, as dense as the long form wants it.
    pub fn all() -> Self {
        let heavy = Heavy::ALL.into_iter().filter(|fault| *fault != Heavy::ClockStep);
        Self {
            light: Light::ALL.to_vec(),
            heavy: heavy.collect(),
            light_every: Duration::from_millis(100),
            heavy_every_ms: (700, 2_600),
        }
    }

    /// Jumps of a worker's clock besides: rules that compare times of two clocks then say nothing.
    pub fn with_clock_steps() -> Self {
        Self {
            heavy: Heavy::ALL.to_vec(),
            ..Self::all()
        }
    }

    pub fn moves_clocks(&self) -> bool {
        self.heavy.contains(&Heavy::ClockStep)
    }

    /// Only kills of workers.
    pub fn worker_kills() -> Self {
        Self {
            light: vec![],
            heavy: vec![Heavy::WorkerKill],
            light_every: Duration::from_secs(1),
            heavy_every_ms: (2_000, 5_000),
        }
    }
}

/// What is in trouble just now; a fault takes its place here first.
#[derive(Debug, Default)]
struct Busy(Mutex<HashSet<String>>);

impl Busy {
    fn take(self: &Arc<Self>, what: &str) -> Option<Taken> {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(what.to_owned()).then(|| Taken {
            busy: Arc::clone(self),
            what: what.to_owned(),
        })
    }

    /// Programs of this name's beginning in trouble.
    fn count(&self, prefix: &str) -> usize {
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.iter().filter(|what| what.starts_with(prefix)).count()
    }
}

#[derive(Debug)]
struct Taken {
    busy: Arc<Busy>,
    what: String,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut set = self.busy.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.remove(&self.what);
    }
}

/// Injects faults until the time is over.
#[derive(Debug)]
pub struct Nemesis {
    system: Arc<System>,
    history: Arc<History>,
    plan: Plan,
    busy: Arc<Busy>,
}

impl Nemesis {
    pub fn new(system: &Arc<System>, history: &Arc<History>, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            system: Arc::clone(system),
            history: Arc::clone(history),
            plan,
            busy: Arc::default(),
        })
    }

    /// Both schedules until `until`; returns when every fault is over and everything runs again.
    pub async fn run(self: &Arc<Self>, seed: u64, until: Instant) {
        let light = self.light_faults(StdRng::seed_from_u64(seed), until);
        let heavy = self.heavy_faults(StdRng::seed_from_u64(seed ^ 0x5eed), until);
        tokio::join!(light, heavy);
        self.system.heal();
    }

    fn record(&self, name: &str, target: &str, loses_redis: bool) {
        self.history.add(Entry::Fault {
            name: name.to_owned(),
            target: target.to_owned(),
            loses_redis,
        });
    }

    async fn light_faults(self: &Arc<Self>, mut rng: StdRng, until: Instant) {
        if self.plan.light.is_empty() {
            return;
        }
        let mut under_way = JoinSet::new();
        let mut tick = tokio::time::interval(self.plan.light_every);
        while Instant::now() < until {
            tick.tick().await;
            let fault = self.plan.light[rng.random_range(0..self.plan.light.len())];
            let number = rng.random_range(0..self.system.nodes().count());
            let store = StoreName::ALL[rng.random_range(0..StoreName::ALL.len())];
            let for_ms = rng.random_range(10..140);
            let this = Arc::clone(self);
            under_way.spawn(async move { this.one_light(fault, number, store, for_ms).await });
            while let Some(over) = under_way.try_join_next() {
                over.expect(SOUND);
            }
        }
        while let Some(over) = under_way.join_next().await {
            over.expect(SOUND);
        }
    }

    async fn one_light(&self, fault: Light, number: usize, store: StoreName, for_ms: u64) {
        let node = self.system.nodes().nth(number).expect("drawn from their count");
        let mut target = String::new();
        let mut taken = None;
        if fault.needs_link() {
            target = format!("{} {}", node.name, store.as_str());
            taken = self.busy.take(&format!("link {target}"));
            if taken.is_none() {
                return;
            }
        }
        self.record(fault.as_str(), &target, false);
        fault::light(&self.system, fault, node, store, for_ms).await;
        drop(taken);
    }

    /// Losses of Redis come only in the first part of each period, so that in its last part the observer's looks count.
    fn is_loss_time(begun: Instant) -> bool {
        let phase_ms = begun.elapsed().as_millis() % LOSS_PERIOD.as_millis();
        phase_ms < LOSS_PART.as_millis()
    }

    async fn heavy_faults(self: &Arc<Self>, mut rng: StdRng, until: Instant) {
        let mut under_way = JoinSet::new();
        let (least, most) = self.plan.heavy_every_ms;
        let mut bag: Vec<Heavy> = Vec::new();
        let begun = Instant::now();
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(rng.random_range(least..=most))).await;
            // From a shuffled bag, so that every kind comes equally often.
            if bag.is_empty() {
                bag.clone_from(&self.plan.heavy);
            }
            let fault = bag.swap_remove(rng.random_range(0..bag.len()));
            if fault.loses_redis() && !Self::is_loss_time(begun) {
                continue;
            }
            let draw = Draw {
                number: rng.random(),
                long: rng.random_bool(0.4),
                part: rng.random_range(0.0..1.0),
            };
            let this = Arc::clone(self);
            under_way.spawn(async move { this.one_heavy(fault, draw).await });
            while let Some(over) = under_way.try_join_next() {
                over.expect(SOUND);
            }
        }
        while let Some(over) = under_way.join_next().await {
            over.expect(SOUND);
        }
    }

    async fn one_heavy(&self, fault: Heavy, draw: Draw) {
        match fault {
            Heavy::WorkerKill | Heavy::WorkerStop | Heavy::WorkerTerm => {
                self.on_program(fault, &self.system.workers, draw).await;
            }
            Heavy::ApiKill | Heavy::ApiStop | Heavy::ApiKillBeforePush => {
                self.on_program(fault, &self.system.apis, draw).await;
            }
            Heavy::LinkStall | Heavy::LinkDown => self.on_link(fault, draw).await,
            Heavy::ClockStep => self.on_clock(draw).await,
            _ => self.on_store(fault, draw).await,
        }
    }

    async fn on_program(&self, fault: Heavy, nodes: &[Node], draw: Draw) {
        let node = &nodes[draw.number as usize % nodes.len()];
        let kind = node.name.split('-').next().unwrap_or_default();
        if self.busy.count(kind) + 1 >= nodes.len() {
            return;
        }
        let Some(_taken) = self.busy.take(&node.name) else {
            return;
        };
        self.record(fault.as_str(), &node.name, false);
        let down = draw.between(300, 4_000);
        match fault {
            // More than a lease of 9 s, so that somebody takes over.
            Heavy::WorkerStop if draw.long => fault::stop(node, draw.between(10_000, 14_000)).await,
            Heavy::WorkerStop | Heavy::ApiStop => fault::stop(node, down).await,
            Heavy::WorkerTerm => node.term(),
            Heavy::ApiKillBeforePush => {
                let taken = self.busy.take(&format!("link {} redis", node.name));
                fault::kill_before_push(node, draw.between(300, 900), down).await;
                drop(taken);
            }
            _ => fault::kill(node, down).await,
        }
    }

    async fn on_link(&self, fault: Heavy, draw: Draw) {
        let number = draw.number as usize;
        let node = self.system.nodes().nth(number % self.system.nodes().count());
        let node = node.expect("below their count");
        let store = StoreName::ALL[(number / 7) % StoreName::ALL.len()];
        let target = format!("{} {}", node.name, store.as_str());
        let Some(_taken) = self.busy.take(&format!("link {target}")) else {
            return;
        };
        self.record(fault.as_str(), &target, false);
        let refuse = fault == Heavy::LinkDown;
        fault::break_link(node, store, refuse, draw.between(500, 5_000)).await;
    }

    /// A jump of up to half a minute either way: farther than any lease is long.
    async fn on_clock(&self, draw: Draw) {
        let node = self.system.workers.iter().find(|node| node.clock.is_some());
        let Some((node, clock)) = node.and_then(|node| Some((node, node.clock.as_ref()?))) else {
            return;
        };
        let Some(_taken) = self.busy.take(&format!("clock {}", node.name)) else {
            return;
        };
        let distance = draw.between(5, 30).as_millis() as i64;
        let seconds = if draw.long { distance } else { -distance };
        self.record(
            Heavy::ClockStep.as_str(),
            &format!("{} {seconds:+} s", node.name),
            false,
        );
        fault::step_clock(clock, seconds, draw.between(2_000, 6_000)).await;
    }

    async fn on_store(&self, fault: Heavy, draw: Draw) {
        let Some(_taken) = self.busy.take("store") else {
            return;
        };
        if fault == Heavy::DiskFull && self.system.stores.disk.is_none() {
            return;
        }
        self.record(fault.as_str(), "", fault.loses_redis());
        let down = draw.between(100, 2_500);
        let system = &self.system;
        match fault {
            Heavy::RedisFlushall => drop(fault::redis(system, &["FLUSHALL"]).await),
            Heavy::RedisKill | Heavy::RedisLoss => {
                fault::kill_redis(system, fault == Heavy::RedisLoss, down).await;
            }
            Heavy::PostgresRestart | Heavy::PostgresCrash => {
                fault::restart_postgres(system, fault == Heavy::PostgresCrash, down).await;
            }
            Heavy::DiskFull => {
                if let Some(disk) = &system.stores.disk {
                    fault::fill_disk(disk, down).await;
                }
            }
            Heavy::S3Stop => fault::stop_s3(system, down).await,
            Heavy::CpuBusy => fault::burn_cpus(draw.between(1_000, 4_000)).await,
            _ => {}
        }
    }
}

/// The numbers of one heavy fault, drawn when it is scheduled, so that its fate does not change the next draw.
#[derive(Debug, Clone, Copy)]
struct Draw {
    number: u32,
    long: bool,
    part: f64,
}

impl Draw {
    fn between(self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + ((most_ms - least_ms) as f64 * self.part) as u64)
    }
}
