//! One run, its writer, a store in memory, and a bus that loses, doubles, reorders and disconnects.

use crate::stream::broken::Broken;
use crate::stream::{EventStore, Feed, LiveBus, Notice};
use domain::{Event, LogType, RunId};
use jiff::{SignedDuration, Timestamp};
use serde_json::Map;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use uuid::Uuid;

pub(super) const RUN: RunId = RunId(Uuid::nil());

/// `SplitMix64`: the same schedule from the same seed, on every machine.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub(super) fn ms(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

#[derive(Debug)]
struct Inner {
    dice: Dice,
    /// What is visible, in the order in which it became so.
    rows: Vec<Event>,
    wires: Vec<Wire>,
}

/// A process's connection to the bus.
#[derive(Debug, Default)]
struct Wire {
    down: bool,
    /// What was on its way when the connection broke never arrives.
    connection: u32,
    feed: Option<mpsc::UnboundedSender<Notice>>,
}

/// Cheap clone.
#[derive(Debug, Clone)]
pub(super) struct World {
    inner: Arc<Mutex<Inner>>,
    pub(super) broken: Broken,
}

impl World {
    pub(super) fn new(seed: u64, processes: usize, broken: Broken) -> Self {
        let wires = (0..processes).map(|_| Wire::default()).collect();
        let inner = Inner {
            dice: Dice::new(seed ^ 0x5DEE_CE66),
            rows: vec![],
            wires,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            broken,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.lock().dice.below(bound)
    }

    pub(super) fn percent(&self, chance: u64) -> bool {
        self.lock().dice.percent(chance)
    }

    /// Mostly nothing, else a pause: what is under way is overtaken.
    pub(super) async fn pause(&self, most_ms: u64) {
        let pause = {
            let dice = &mut self.lock().dice;
            dice.percent(60).then(|| dice.ms(most_ms))
        };
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => tokio::task::yield_now().await,
        }
    }

    /// Commits and publishes events 1 to `count`, the last of which is `complete`.
    pub(super) async fn write(self, count: i64) {
        let mut open: Vec<i64> = vec![];
        let mut next = 1;
        while next <= count || !open.is_empty() {
            self.pause(60).await;
            if self.broken != Broken::GlobalSerial {
                self.commit(next, count);
                next += 1;
                continue;
            }
            // Several transactions hold a number each and commit in any order.
            if next <= count && open.len() < 3 {
                open.push(next);
                next += 1;
            }
            if self.percent(60) && !open.is_empty() {
                let at = self.below(open.len() as u64) as usize;
                self.commit(open.swap_remove(at), count);
            }
        }
    }

    fn commit(&self, seq: i64, count: i64) {
        let event = Event {
            id: Uuid::nil(),
            run_id: RUN,
            seq,
            log_type: if seq == count {
                LogType::Complete
            } else {
                LogType::Info
            },
            message: String::new(),
            metadata: Map::new(),
            created_at: Timestamp::UNIX_EPOCH + SignedDuration::from_micros(seq),
        };
        let kind = if seq == count { "complete" } else { "log" };
        let text: Arc<str> = format!(r#"{{"type":"{kind}","seq":{seq}}}"#).into();
        self.lock().rows.push(event);
        self.publish(&text);
    }

    fn publish(&self, text: &Arc<str>) {
        let mut inner = self.lock();
        let Inner { dice, wires, .. } = &mut *inner;
        for (process, wire) in wires.iter().enumerate() {
            if wire.down || wire.feed.is_none() || dice.percent(15) {
                continue;
            }
            let copies = if dice.percent(10) { 2 } else { 1 };
            for _ in 0..copies {
                let delay = if dice.percent(30) {
                    dice.ms(80)
                } else {
                    Duration::ZERO
                };
                let (world, connection) = (self.clone(), wire.connection);
                let notice = Notice::Message(text.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    world.deliver(process, connection, notice);
                });
            }
        }
    }

    fn deliver(&self, process: usize, connection: u32, notice: Notice) {
        let wire = &self.lock().wires[process];
        if !wire.down
            && wire.connection == connection
            && let Some(feed) = &wire.feed
        {
            // Nobody listening is what a bus does not notice.
            feed.send(notice).ok();
        }
    }

    /// Breaks and mends the processes' connections until dropped.
    pub(super) async fn disturb(self) {
        loop {
            self.pause(400).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut inner = self.lock();
            let Inner { dice, wires, .. } = &mut *inner;
            for wire in wires {
                if !wire.down && dice.percent(10) {
                    wire.down = true;
                    wire.connection += 1;
                } else if wire.down && dice.percent(40) {
                    wire.down = false;
                    if let Some(feed) = &wire.feed {
                        feed.send(Notice::Lost).ok();
                    }
                }
            }
        }
    }
}

/// The store, which takes its time and answers what is there at some moment in between.
#[derive(Debug, Clone)]
pub(super) struct Store(pub(super) World);

#[derive(Debug, thiserror::Error)]
#[error("the store is away")]
pub(super) struct Away;

impl EventStore for Store {
    type Error = Away;

    async fn page(&self, _: RunId, after: i64, limit: usize) -> Result<Vec<Event>, Away> {
        self.0.pause(20).await;
        if self.0.percent(1) {
            return Err(Away);
        }
        let mut page: Vec<Event> = {
            let inner = self.0.lock();
            inner.rows.iter().filter(|row| row.seq > after).cloned().collect()
        };
        page.sort_by_key(|row| row.seq);
        page.truncate(limit);
        self.0.pause(20).await;
        Ok(page)
    }

    async fn heads(&self, runs: &[RunId]) -> Result<Vec<(RunId, i64)>, Away> {
        self.0.pause(20).await;
        let newest = self.0.lock().rows.iter().map(|row| row.seq).max();
        self.0.pause(20).await;
        Ok(runs
            .iter()
            .map(|run| (*run, newest.unwrap_or_default()))
            .collect())
    }
}

/// The bus as one process sees it.
#[derive(Debug, Clone)]
pub(super) struct Bus(pub(super) World, pub(super) usize);

#[derive(Debug)]
pub(super) struct Heard(mpsc::UnboundedReceiver<Notice>);

impl LiveBus for Bus {
    type Feed = Heard;

    async fn subscribe(&self, _: RunId) -> Heard {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.pause(30).await;
        let mut inner = self.0.lock();
        let wire = &mut inner.wires[self.1];
        // While the connection is down this is what a pending subscription is: `Lost` follows when it stands.
        wire.feed = Some(sender);
        Heard(receiver)
    }

    fn connected(&self) -> bool {
        !self.0.lock().wires[self.1].down
    }
}

impl Feed for Heard {
    async fn next(&mut self) -> Notice {
        match self.0.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }
}
