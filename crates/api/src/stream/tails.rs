//! The tails of a process: who watches what, and what wakes a read of the store.

#[cfg(test)]
use super::broken::Broken;
use super::message::{self, Meaning};
use super::meter::{Cause, Meter};
use super::tail::{Common, Sizes, Tail, lock};
use super::{EventStore, Feed as _, LiveBus, Notice};
use domain::{Clock, RunId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// A tail outlives its last viewer by this, for those that reconnect.
const LINGER: Duration = Duration::from_secs(2);
/// What is left of a full budget once the least used rings have been emptied, in eighths.
const KEPT_EIGHTHS: usize = 7;
/// How far apart the ends of two streams are on average when the process shuts down.
const CLOSING_STEP: Duration = Duration::from_millis(4);
/// All streams have ended this long after a shutdown began.
const CLOSING_MOST: Duration = Duration::from_secs(4);
/// How often a shutdown looks whether streams are left.
const CLOSING_LOOK: Duration = Duration::from_millis(10);
/// A stream whose socket takes nothing is left to the connection's own limit after this.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);

/// All tails of a process. Cheap clone.
#[derive(Debug)]
pub struct Tails<S, B>(Arc<Inner<S, B>>);

#[derive(Debug)]
struct Inner<S, B> {
    store: S,
    bus: B,
    clock: Arc<dyn Clock>,
    common: Arc<Common>,
    watched: Mutex<HashMap<RunId, Arc<Tail>>>,
    /// Viewers so far; the next one's number.
    viewers: AtomicU64,
    /// The store has been away for so long that idle streams must end.
    interrupted: AtomicBool,
    closing: OnceLock<Closing>,
}

/// A shutdown that has begun.
#[derive(Debug, Clone, Copy)]
struct Closing {
    since: Instant,
    window: Duration,
}

impl<S, B> Clone for Tails<S, B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: EventStore, B: LiveBus> Tails<S, B> {
    pub fn new(store: S, bus: B, clock: Arc<dyn Clock>) -> Self {
        Self::with_sizes(store, bus, clock, Sizes::default())
    }

    pub fn with_sizes(store: S, bus: B, clock: Arc<dyn Clock>, sizes: Sizes) -> Self {
        Self::of(store, bus, clock, Common::new(sizes))
    }

    fn of(store: S, bus: B, clock: Arc<dyn Clock>, common: Common) -> Self {
        Self(Arc::new(Inner {
            store,
            bus,
            clock,
            common: Arc::new(common),
            watched: Mutex::default(),
            viewers: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
            closing: OnceLock::new(),
        }))
    }

    #[cfg(test)]
    pub(super) fn broken(store: S, bus: B, clock: Arc<dyn Clock>, (sizes, broken): (Sizes, Broken)) -> Self {
        let mut common = Common::new(sizes);
        common.broken = broken;
        Self::of(store, bus, clock, common)
    }

    pub(super) fn store(&self) -> &S {
        &self.0.store
    }

    pub(super) fn bus(&self) -> &B {
        &self.0.bus
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.0.common.sizes
    }

    pub fn meter(&self) -> &Meter {
        &self.0.common.meter
    }

    /// Bytes in the rings of all runs.
    pub fn held_bytes(&self) -> usize {
        self.0.common.held_bytes()
    }

    pub(super) fn next_number(&self) -> u64 {
        self.0.viewers.fetch_add(1, Ordering::Relaxed)
    }

    /// Joins a run's tail; the subscription is in force when this returns, or the reconciler stands in for it.
    pub async fn attach(&self, run: RunId) -> Attached<S, B> {
        let tail = {
            let mut tails = lock(&self.0.watched);
            let new = || Arc::new(Tail::new(run, self.0.common.clone()));
            let tail = tails.entry(run).or_insert_with(new).clone();
            tail.viewers.fetch_add(1, Ordering::Relaxed);
            self.meter().runs_watched.set(tails.len() as f64);
            tail
        };
        self.meter().subscribers.increment(1.0);
        let attached = Attached {
            tails: self.clone(),
            tail,
        };
        #[cfg(test)]
        if self.0.common.broken == Broken::StoreFirst {
            return attached;
        }
        self.subscribe(&attached.tail).await;
        attached
    }

    pub(super) async fn subscribe(&self, tail: &Arc<Tail>) {
        tail.listener.get_or_init(|| self.listen(tail)).await;
    }

    /// Subscribes, then passes notices on for as long as the tail lives.
    async fn listen(&self, tail: &Arc<Tail>) -> AbortOnDropHandle<()> {
        let mut feed = self.0.bus.subscribe(tail.run).await;
        let (tails, tail) = (self.clone(), Arc::downgrade(tail));
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let notice = feed.next().await;
                let Some(tail) = tail.upgrade() else { return };
                tails.notice(&tail, &notice);
            }
        }))
    }

    /// What a notice means for a tail.
    fn notice(&self, tail: &Arc<Tail>, notice: &Notice) {
        #[cfg(test)]
        if self.0.common.broken.takes(tail, notice) {
            return;
        }
        let Notice::Message(text) = notice else {
            return self.mark_dirty(tail, Some(Cause::Reconnect));
        };
        match message::read(tail.run, text, self.0.clock.now()) {
            Meaning::Stored(seq) => match tail.head() {
                Some(head) if seq <= head => {}
                Some(head) if seq > head + 1 => self.mark_dirty(tail, Some(Cause::Hole)),
                _ => self.mark_dirty(tail, None),
            },
            Meaning::Claim => self.mark_dirty(tail, None),
            Meaning::Show(transient) => tail.show(transient),
        }
    }

    pub(super) fn watched(&self) -> Vec<Arc<Tail>> {
        lock(&self.0.watched).values().cloned().collect()
    }

    /// The store's newest seqs: fill what is behind.
    pub(super) fn compare(&self, heads: &[(RunId, i64)]) {
        for (run, last_seq) in heads {
            let tail = lock(&self.0.watched).get(run).cloned();
            if let Some(tail) = tail.filter(|tail| tail.is_behind(*last_seq)) {
                self.mark_dirty(&tail, Some(Cause::Reconcile));
            }
        }
    }

    /// The store may hold more than the ring: reads it, unless a read is under way; that one then looks once more.
    pub(super) fn mark_dirty(&self, tail: &Arc<Tail>, cause: Option<Cause>) {
        #[cfg(test)]
        if self.0.common.broken == Broken::StoreFirst {
            return;
        }
        if tail.begin_fill() {
            if let Some(cause) = cause {
                self.meter().fill(cause);
            }
            tokio::spawn(self.clone().fill(tail.clone()));
        }
    }

    async fn fill(self, tail: Arc<Tail>) {
        let most = self.sizes().fill_page;
        loop {
            match self.0.store.page(tail.run, tail.begin_read(), most).await {
                Ok(page) => {
                    if !page.is_empty() {
                        tail.append(&page);
                        self.shed();
                    }
                    if !tail.once_more(page.len() == most) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %crate::error::chain(&error), "stream read failed");
                    return tail.fill_failed();
                }
            }
        }
    }

    /// Empties the least used rings when all together hold too much.
    fn shed(&self) {
        let budget = self.sizes().budget_bytes;
        if self.held_bytes() <= budget {
            return;
        }
        let mut rings: Vec<_> = self
            .watched()
            .into_iter()
            .filter_map(|tail| Some((tail.used()?, tail)))
            .collect();
        rings.sort_by_key(|(used, _)| *used);
        for (_, tail) in rings {
            if self.held_bytes() <= budget / 8 * KEPT_EIGHTHS {
                return;
            }
            tail.empty_ring();
        }
    }

    /// A viewer has read every stored row up to `cursor`.
    pub(super) fn caught_up(&self, tail: &Arc<Tail>, cursor: i64) {
        if tail.caught_up(cursor) {
            self.mark_dirty(tail, None);
        }
    }

    fn wake_all(&self) {
        for tail in self.watched() {
            tail.wake();
        }
    }

    pub(super) fn interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::Acquire)
    }

    pub(super) fn set_interrupted(&self, interrupted: bool) {
        if self.0.interrupted.swap(interrupted, Ordering::AcqRel) != interrupted {
            self.wake_all();
        }
    }

    /// Tells all viewers to end, one after another: the more there are, the longer it takes, so that their
    /// reconnects do not come all at once.
    pub fn close(&self) {
        let open = self.open() as u32;
        self.0.closing.get_or_init(|| Closing {
            since: Instant::now(),
            window: CLOSING_STEP.saturating_mul(open).min(CLOSING_MOST),
        });
        self.wake_all();
    }

    /// When a viewer must end; nothing while the process goes on.
    pub(super) fn closes_at(&self, number: u64) -> Option<Instant> {
        // Multiples of the golden ratio, modulo 1, lie evenly however many of them are left.
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let closing = self.0.closing.get()?;
        let share = number.wrapping_mul(GOLDEN) as f64 / u64::MAX as f64;
        Some(closing.since + closing.window.mul_f64(share))
    }

    /// Viewers of all runs.
    pub fn open(&self) -> usize {
        let tails = lock(&self.0.watched);
        tails
            .values()
            .map(|tail| tail.viewers.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns when no viewer is left after [`Tails::close`], or only such as cannot be told.
    pub(super) async fn left(&self) {
        let deadline = Instant::now() + CLOSING_LIMIT;
        while self.open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(CLOSING_LOOK).await;
        }
    }

    /// Drops the tail of a run nobody watches any more, `LINGER` after its last viewer.
    async fn expire(self, tail: Arc<Tail>) {
        tokio::time::sleep(LINGER).await;
        let mut tails = lock(&self.0.watched);
        let idle = tail.viewers.load(Ordering::Relaxed) == 0;
        let present = tails
            .get(&tail.run)
            .is_some_and(|present| Arc::ptr_eq(present, &tail));
        if idle && present {
            tails.remove(&tail.run);
            self.meter().runs_watched.set(tails.len() as f64);
        }
    }
}

/// A viewer's hold on a tail.
#[derive(Debug)]
pub struct Attached<S: EventStore, B: LiveBus> {
    pub tails: Tails<S, B>,
    pub tail: Arc<Tail>,
}

impl<S: EventStore, B: LiveBus> Drop for Attached<S, B> {
    fn drop(&mut self) {
        self.tails.meter().subscribers.decrement(1.0);
        if self.tail.viewers.fetch_sub(1, Ordering::Relaxed) == 1 {
            let runtime = tokio::runtime::Handle::try_current();
            if let Ok(runtime) = runtime {
                runtime.spawn(self.tails.clone().expire(self.tail.clone()));
            }
        }
    }
}
