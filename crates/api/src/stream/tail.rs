//! One [`Tail`] per watched run and process: a ring of rendered frames that all its viewers read.
//!
//! Invariants: the ring is contiguous and ends at `head`, or is empty; `head` is set once by the first viewer that has read
//! all history, and from then on raised only by [`Tail::append`]; at most one fill runs at a time, and a notice
//! that arrives during a fill leaves the `dirty` mark, so that the fill looks once more.

#[cfg(test)]
use super::broken::Broken;
use super::frames::{Form, Frame};
use super::message::Transient;
use super::meter::Meter;
use bytes::Bytes;
use domain::{Event, RunId};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Transient frames kept for viewers that are about to read them.
const TRANSIENTS: usize = 64;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much a process keeps, and reads at once.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Frames kept per run for viewers that keep up; slower ones read pages.
    pub ring_frames: usize,
    /// Bytes kept per run, both forms together.
    pub ring_bytes: usize,
    /// Bytes kept by all rings together; the least used ones are emptied first.
    pub budget_bytes: usize,
    /// Events per read when a ring is filled.
    pub fill_page: usize,
    /// Events per read of history at most.
    pub page: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            ring_frames: 256,
            ring_bytes: 256 * 1024,
            budget_bytes: 256 * 1024 * 1024,
            fill_page: 100,
            page: 500,
        }
    }
}

/// What the tails of a process share.
#[derive(Debug, Default)]
pub struct Common {
    pub sizes: Sizes,
    pub meter: Meter,
    /// Bytes in all rings.
    held_bytes: AtomicUsize,
    #[cfg(test)]
    pub(super) broken: Broken,
}

impl Common {
    pub(super) fn new(sizes: Sizes) -> Self {
        Self {
            sizes,
            ..Self::default()
        }
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// A ring has changed its size.
    fn account(&self, before: usize, now: usize) {
        self.held_bytes.fetch_add(now, Ordering::Relaxed);
        let held = self.held_bytes.fetch_sub(before, Ordering::Relaxed) - before;
        self.meter.ring_bytes.set(held as f64);
    }
}

#[derive(Debug)]
struct State {
    ring: VecDeque<Frame>,
    ring_bytes: usize,
    /// When the ring was last written or read.
    used: Instant,
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
    /// Stored frames given, from cursor + 1 on, without gap.
    pub given: usize,
    /// When the first of them was stored.
    pub oldest: Option<Timestamp>,
    /// Seq of the last of them, or the cursor.
    pub cursor: i64,
    /// The last of them is the run's `complete`.
    pub complete: bool,
    /// The store holds more than the ring can give: read a page.
    pub behind: bool,
    /// Mark for the next look.
    pub mark: u64,
}

/// The shared end of one run's log.
#[derive(Debug)]
pub struct Tail {
    pub run: RunId,
    pub(super) common: Arc<Common>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    pub(super) viewers: AtomicUsize,
    /// Passes notices on; there from the first viewer's subscription to the tail's end.
    pub(super) listener: OnceCell<AbortOnDropHandle<()>>,
}

impl Tail {
    pub(super) fn new(run: RunId, common: Arc<Common>) -> Self {
        Self {
            run,
            common,
            state: Mutex::new(State {
                ring: VecDeque::new(),
                ring_bytes: 0,
                used: Instant::now(),
                head: None,
                dirty: false,
                filling: false,
                transients: VecDeque::new(),
                next_transient: 0,
            }),
            changed: watch::Sender::new(()),
            viewers: AtomicUsize::new(0),
            listener: OnceCell::new(),
        }
    }

    /// Wakes at every change of ring or transients, and when all viewers are to look around.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn wake(&self) {
        self.changed.send_replace(());
    }

    /// Mark of the newest transient: a viewer that starts here sees only later ones.
    pub fn mark(&self) -> u64 {
        lock(&self.state).next_transient
    }

    /// Gives at most `most` stored frames after `cursor`, then the transients after `mark`.
    pub fn look(
        &self,
        form: Form,
        (cursor, mark): (i64, u64),
        most: usize,
        to: &mut VecDeque<Bytes>,
    ) -> Look {
        let mut state = lock(&self.state);
        let mut look = Look {
            cursor,
            mark,
            ..Look::default()
        };
        let first = state.ring.front().map(|frame| frame.seq);
        if first.is_some_and(|first| first <= cursor + 1) {
            let skip = usize::try_from(cursor + 1 - first.unwrap_or(0)).unwrap_or(0);
            for frame in state.ring.iter().skip(skip).take(most) {
                to.push_back(frame.bytes(form));
                look.oldest.get_or_insert(frame.created_at);
                look.given += 1;
                look.cursor = frame.seq;
                look.complete |= frame.last;
            }
        }
        if look.given > 0 {
            state.used = Instant::now();
        }
        look.behind = look.given == 0 && state.head.is_some_and(|head| cursor < head);
        // Nothing follows `complete`.
        if !look.behind && !look.complete {
            look.mark = state.next_transient;
            let unseen = usize::try_from(state.next_transient - mark).unwrap_or(usize::MAX);
            let skip = state.transients.len().saturating_sub(unseen);
            let unseen = state.transients.iter().skip(skip);
            to.extend(unseen.filter_map(|transient| transient.bytes(form)));
        }
        look
    }

    /// Adds rows read after `head`; whatever does not continue the ring is left for the next read.
    pub(super) fn append(&self, page: &[Event]) {
        // Made before the lock is taken: viewers do not wait for it.
        let frames: Vec<Frame> = page.iter().map(Frame::of).collect();
        let mut state = lock(&self.state);
        let before = state.ring_bytes;
        for frame in frames {
            let Some(head) = state.head else { break };
            if frame.seq != head + 1 && !self.may_have_holes() {
                self.common.meter.violation();
                break;
            }
            self.push(&mut state, frame);
        }
        self.common.account(before, state.ring_bytes);
        drop(state);
        self.wake();
    }

    fn push(&self, state: &mut State, frame: Frame) {
        let sizes = self.common.sizes;
        state.used = Instant::now();
        state.head = Some(frame.seq);
        state.ring_bytes += frame.size_bytes();
        state.ring.push_back(frame);
        while state.ring.len() > sizes.ring_frames
            || (state.ring_bytes > sizes.ring_bytes && state.ring.len() > 1)
        {
            let dropped = state.ring.pop_front();
            state.ring_bytes -= dropped.map_or(0, |frame| frame.size_bytes());
        }
    }

    /// When the ring was last used; nothing when it is empty.
    pub(super) fn used(&self) -> Option<Instant> {
        let state = lock(&self.state);
        (!state.ring.is_empty()).then_some(state.used)
    }

    /// Gives the ring's memory back. Its viewers read pages for what they have not seen yet.
    pub(super) fn empty_ring(&self) {
        let mut state = lock(&self.state);
        state.ring = VecDeque::new();
        let before = std::mem::take(&mut state.ring_bytes);
        self.common.account(before, 0);
    }

    pub(super) fn show(&self, transient: Transient) {
        let mut state = lock(&self.state);
        state.transients.push_back(transient);
        state.next_transient += 1;
        if state.transients.len() > TRANSIENTS {
            state.transients.pop_front();
        }
        drop(state);
        self.wake();
    }

    pub(super) fn head(&self) -> Option<i64> {
        lock(&self.state).head
    }

    /// The store's newest seq is not in the ring yet, or a read is owed.
    pub(super) fn is_behind(&self, last_seq: i64) -> bool {
        let state = lock(&self.state);
        state.dirty || state.head.is_some_and(|head| head < last_seq)
    }

    /// A viewer has read every stored row up to `cursor`; `true`: the ring is behind it. Never raises a head that is
    /// set: the ring would have a hole.
    pub(super) fn caught_up(&self, cursor: i64) -> bool {
        let mut state = lock(&self.state);
        match state.head {
            None => {
                state.head = Some(cursor);
                state.dirty
            }
            #[cfg(test)]
            Some(head) if self.common.broken == Broken::HeadBump => {
                state.head = Some(head.max(cursor));
                false
            }
            Some(head) => cursor > head,
        }
    }

    /// Marks the tail; `true` when the caller must now run a fill.
    pub(super) fn begin_fill(&self) -> bool {
        let mut state = lock(&self.state);
        state.dirty = true;
        if state.head.is_none() || state.filling {
            return false;
        }
        state.filling = true;
        true
    }

    /// Takes the mark away; the seq to read after.
    pub(super) fn begin_read(&self) -> i64 {
        let mut state = lock(&self.state);
        state.dirty = false;
        state.head.unwrap_or(0)
    }

    /// Ends a fill unless something was marked meanwhile; `true`: look again.
    pub(super) fn once_more(&self, full_page: bool) -> bool {
        let mut state = lock(&self.state);
        state.filling = full_page || state.dirty;
        state.filling
    }

    pub(super) fn fill_failed(&self) {
        let mut state = lock(&self.state);
        state.dirty = true;
        state.filling = false;
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the form for tests looks at it")]
    const fn may_have_holes(&self) -> bool {
        false
    }

    #[cfg(test)]
    fn may_have_holes(&self) -> bool {
        self.common.broken == Broken::GlobalSerial
    }

    /// Takes a message's payload for the event, whatever comes before it.
    #[cfg(test)]
    pub(super) fn append_unchecked(&self, frame: Frame) {
        let mut state = lock(&self.state);
        let before = state.ring_bytes;
        let head = *state.head.get_or_insert(frame.seq - 1);
        if frame.seq > head {
            self.push(&mut state, frame);
        }
        self.common.account(before, state.ring_bytes);
        drop(state);
        self.wake();
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let before = lock(&self.state).ring_bytes;
        self.common.account(before, 0);
    }
}
