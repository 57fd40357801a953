//! One [`Tail`] per watched run and process: a ring of rendered frames that all its viewers read.
//!
//! Invariants: the ring is contiguous and ends at `head`; `head` is set once by the first viewer that has read all
//! history, and from then on raised only by [`Tail::append`]; at most one fill runs at a time, and a notice
//! that arrives during a fill leaves the `dirty` mark, so that the fill looks once more.

use super::EventStore;
use super::frames::{Form, Frame};
use super::message::Transient;
use bytes::Bytes;
use domain::{Event, RunId};
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
    pub(super) viewers: AtomicUsize,
    /// Passes notices on; there from the first viewer's subscription to the tail's end.
    pub(super) listener: OnceCell<AbortOnDropHandle<()>>,
}

impl Tail {
    pub(super) fn new(run: RunId) -> Self {
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

    pub(super) fn show(&self, transient: Transient) {
        let mut state = lock(&self.state);
        state.transients.push_back(transient);
        state.next_transient += 1;
        if state.transients.len() > TRANSIENTS {
            state.transients.pop_front();
        }
        drop(state);
        self.changed.send_replace(());
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

    pub(super) async fn fill<S: EventStore>(&self, store: &S) {
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
