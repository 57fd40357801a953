//! The tails of a process: who watches what, and what wakes a read of the store.

use super::message::{self, Meaning};
use super::tail::{Tail, lock};
use super::{EventStore, Feed as _, LiveBus, Notice};
use domain::{Clock, RunId};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A tail outlives its last viewer by this, for those that reconnect.
const LINGER: Duration = Duration::from_secs(2);

/// All tails of a process. Cheap clone.
#[derive(Debug)]
pub struct Tails<S, B> {
    pub store: S,
    pub bus: B,
    clock: Arc<dyn Clock>,
    watched: Arc<Mutex<HashMap<RunId, Arc<Tail>>>>,
    /// The store has been away for so long that idle streams must end.
    interrupted: watch::Sender<bool>,
}

impl<S: Clone, B: Clone> Clone for Tails<S, B> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            bus: self.bus.clone(),
            clock: self.clock.clone(),
            watched: self.watched.clone(),
            interrupted: self.interrupted.clone(),
        }
    }
}

impl<S: EventStore, B: LiveBus> Tails<S, B> {
    pub fn new(store: S, bus: B, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            bus,
            clock,
            watched: Arc::default(),
            interrupted: watch::Sender::new(false),
        }
    }

    /// Joins a run's tail; the subscription is in force when this returns, or the reconciler stands in for it.
    pub async fn attach(&self, run: RunId) -> Attached<S, B> {
        let tail = {
            let mut tails = lock(&self.watched);
            let tail = tails
                .entry(run)
                .or_insert_with(|| Arc::new(Tail::new(run)))
                .clone();
            tail.viewers.fetch_add(1, Ordering::Relaxed);
            tail
        };
        let attached = Attached {
            tails: self.clone(),
            tail,
        };
        attached
            .tail
            .listener
            .get_or_init(|| self.listen(&attached.tail))
            .await;
        attached
    }

    /// Subscribes, then passes notices on for as long as the tail lives.
    async fn listen(&self, tail: &Arc<Tail>) -> AbortOnDropHandle<()> {
        let mut feed = self.bus.subscribe(tail.run).await;
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
        let Notice::Message(text) = notice else {
            return self.mark_dirty(tail);
        };
        match message::read(tail.run, text, self.clock.now()) {
            Meaning::Stored(seq) if tail.head().is_some_and(|head| seq <= head) => {}
            Meaning::Stored(_) | Meaning::Claim => self.mark_dirty(tail),
            Meaning::Show(transient) => tail.show(transient),
        }
    }

    pub(super) fn watched(&self) -> Vec<Arc<Tail>> {
        lock(&self.watched).values().cloned().collect()
    }

    /// The store's newest seqs: fill what is behind.
    pub(super) fn compare(&self, heads: &[(RunId, i64)]) {
        for (run, last_seq) in heads {
            let tail = lock(&self.watched).get(run).cloned();
            if let Some(tail) = tail.filter(|tail| tail.is_behind(*last_seq)) {
                self.mark_dirty(&tail);
            }
        }
    }

    pub fn mark_dirty(&self, tail: &Arc<Tail>) {
        if tail.begin_fill() {
            let (tail, store) = (tail.clone(), self.store.clone());
            tokio::spawn(async move { tail.fill(&store).await });
        }
    }

    /// A viewer has read every stored row up to `cursor`.
    pub(super) fn caught_up(&self, tail: &Arc<Tail>, cursor: i64) {
        if tail.caught_up(cursor) {
            self.mark_dirty(tail);
        }
    }

    pub(super) fn interruptions(&self) -> watch::Receiver<bool> {
        self.interrupted.subscribe()
    }

    pub(super) fn set_interrupted(&self, interrupted: bool) {
        self.interrupted
            .send_if_modified(|present| std::mem::replace(present, interrupted) != interrupted);
    }

    /// Drops the tail of a run nobody watches any more, `LINGER` after its last viewer.
    async fn expire(self, tail: Arc<Tail>) {
        tokio::time::sleep(LINGER).await;
        let mut tails = lock(&self.watched);
        let idle = tail.viewers.load(Ordering::Relaxed) == 0;
        let present = tails
            .get(&tail.run)
            .is_some_and(|present| Arc::ptr_eq(present, &tail));
        if idle && present {
            tails.remove(&tail.run);
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
        if self.tail.viewers.fetch_sub(1, Ordering::Relaxed) == 1 {
            let runtime = tokio::runtime::Handle::try_current();
            if let Ok(runtime) = runtime {
                runtime.spawn(self.tails.clone().expire(self.tail.clone()));
            }
        }
    }
}
