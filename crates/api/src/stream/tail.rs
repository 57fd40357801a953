//! One [`Tail`] per watched run and process: a ring of rendered frames that all its viewers read.
//!
//! Invariants: the ring is contiguous and ends at `head`; `head` is set once by the first viewer that has read all
//! history, and from then on raised only by [`Tail::append`]; at most one fill runs at a time, and a notice
//! that arrives during a fill leaves the `dirty` mark, so that the fill looks once more.

use super::frames::{Form, Frame};
use super::message::{self, Meaning, Transient};
use super::{EventStore, Feed as _, LiveBus, Notice};
use bytes::Bytes;
use domain::{Clock, Event, RunId};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, watch};
use tokio_util::task::AbortOnDropHandle;

/// Frames kept for viewers that keep up; slower ones read pages.
const RING_FRAMES: usize = 256;
/// Bytes kept per run, both forms together.
const RING_BYTES: usize = 256 * 1024;
/// Events per read when filling.
const FILL_PAGE: usize = 100;
/// Transient frames kept for viewers that are about to read them.
const TRANSIENTS: usize = 64;
/// A tail outlives its last viewer by this, for those that reconnect.
const LINGER: Duration = Duration::from_secs(2);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<Frame>,
    ring_bytes: usize,
    /// Newest seq known to have been read; unset until the first viewer has read all history.
    head: Option<i64>,
    dirty: bool,
    filling: bool,
    transients: VecDeque<Transient>,
    /// Number of the transient that comes after the newest one.
    next_transient: u64,
}

/// What a viewer finds at its cursor.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Frames from cursor + 1 on, without gap.
    pub frames: Vec<Bytes>,
    /// Seq of the last of them, or the cursor.
    pub cursor: i64,
    /// The last of them is the run's `complete`.
    pub complete: bool,
    /// The store holds more than the ring can give: read a page.
    pub behind: bool,
    /// Transient frames not yet seen, and the new mark for the next look.
    pub transients: Vec<Bytes>,
    pub mark: u64,
}

/// The shared end of one run's log.
#[derive(Debug)]
pub struct Tail {
    pub run: RunId,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    viewers: AtomicUsize,
    /// Passes notices on; there from the first viewer's subscription to the tail's end.
    listener: OnceCell<AbortOnDropHandle<()>>,
}

impl Tail {
    fn new(run: RunId) -> Self {
        Self {
            run,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            viewers: AtomicUsize::new(0),
            listener: OnceCell::new(),
        }
    }

    /// Wakes at every change of ring or transients.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Mark of the newest transient: a viewer that starts here sees only later ones.
    pub fn mark(&self) -> u64 {
        lock(&self.state).next_transient
    }

    pub fn look(&self, form: Form, cursor: i64, mark: u64, most: usize) -> Look {
        let state = lock(&self.state);
        let mut look = Look {
            cursor,
            mark,
            ..Look::default()
        };
        let first = state.ring.front().map(|frame| frame.seq);
        if first.is_some_and(|first| first <= cursor + 1) {
            let skip = usize::try_from(cursor + 1 - first.unwrap_or(0)).unwrap_or(0);
            for frame in state.ring.iter().skip(skip).take(most) {
                look.frames.push(frame.bytes(form));
                look.cursor = frame.seq;
                look.complete |= frame.last;
            }
        }
        look.behind = look.frames.is_empty() && state.head.is_some_and(|head| cursor < head);
        if !look.behind {
            look.mark = state.next_transient;
            let unseen = usize::try_from(state.next_transient - mark).unwrap_or(usize::MAX);
            let skip = state.transients.len().saturating_sub(unseen);
            let unseen = state.transients.iter().skip(skip);
            look.transients = unseen.filter_map(|transient| transient.bytes(form)).collect();
        }
        look
    }

    /// Adds rows read after `head`; whatever does not continue the ring is left for the next read.
    fn append(&self, page: &[Event]) {
        let mut state = lock(&self.state);
        for event in page {
            let Some(head) = state.head else { break };
            if event.seq != head + 1 {
                metrics::counter!("stream_invariant_violations_total").increment(1);
                break;
            }
            let frame = Frame::of(event);
            state.ring_bytes += frame.size_bytes();
            state.head = Some(event.seq);
            state.ring.push_back(frame);
            while state.ring.len() > RING_FRAMES || (state.ring_bytes > RING_BYTES && state.ring.len() > 1) {
                let dropped = state.ring.pop_front();
                state.ring_bytes -= dropped.map_or(0, |frame| frame.size_bytes());
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn show(&self, transient: Transient) {
        let mut state = lock(&self.state);
        state.transients.push_back(transient);
        state.next_transient += 1;
        if state.transients.len() > TRANSIENTS {
            state.transients.pop_front();
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn head(&self) -> Option<i64> {
        lock(&self.state).head
    }

    /// Marks the tail; `true` when the caller must now run a fill.
    fn begin_fill(&self) -> bool {
        let mut state = lock(&self.state);
        state.dirty = true;
        if state.head.is_none() || state.filling {
            return false;
        }
        state.filling = true;
        true
    }

    /// Ends a fill unless something was marked meanwhile; `true`: look again.
    fn once_more(&self, full_page: bool) -> bool {
        let mut state = lock(&self.state);
        state.filling = full_page || state.dirty;
        state.filling
    }

    fn fill_failed(&self) {
        let mut state = lock(&self.state);
        state.dirty = true;
        state.filling = false;
    }

    async fn fill<S: EventStore>(&self, store: &S) {
        loop {
            let head = {
                let mut state = lock(&self.state);
                state.dirty = false;
                state.head.unwrap_or(0)
            };
            match store.page(self.run, head, FILL_PAGE).await {
                Ok(page) => {
                    if !page.is_empty() {
                        self.append(&page);
                    }
                    if !self.once_more(page.len() == FILL_PAGE) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %crate::error::chain(&error), "stream read failed");
                    return self.fill_failed();
                }
            }
        }
    }
}

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
            let behind = tail.filter(|tail| {
                let state = lock(&tail.state);
                state.dirty || state.head.is_some_and(|head| head < *last_seq)
            });
            if let Some(tail) = behind {
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

    /// A viewer has read every stored row up to `cursor`. Never raises a head that is set: the ring would have a hole.
    pub(super) fn caught_up(&self, tail: &Arc<Tail>, cursor: i64) {
        let again = {
            let mut state = lock(&tail.state);
            match state.head {
                None => {
                    state.head = Some(cursor);
                    state.dirty
                }
                Some(head) => cursor > head,
            }
        };
        if again {
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
