//! One connection: a cursor that is pulled by the socket.
//!
//! A slow client is asked for less often, falls out of the ring and reads pages; it holds no queue and slows
//! nobody. Invariant: the seq of the next stored frame is the cursor + 1.
//!
//! Whoever wants something of all viewers sets a flag and wakes the tails; so an idle viewer waits for two things
//! only, its tail and its timer, and ten thousand of them cost little.

#[cfg(test)]
use super::broken::Broken;
use super::frames::{self, Form};
use super::meter::{Cause, Closed};
use super::reconcile::STORE_PATIENCE;
use super::tails::Attached;
use super::{EventStore, LiveBus};
use bytes::{Bytes, BytesMut};
use domain::{Clock, Event, RunId};
use futures::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// Events of the first read of history; later ones follow the size of the events.
const FIRST_PAGE: usize = 100;
/// Bytes of rendered history held at once, about.
const PAGE_BYTES: usize = 128 * 1024;
/// Frames taken from the ring at once.
const RING_BATCH: usize = 64;
/// Frames that are ready at the same time are sent as one piece of at most this many bytes.
const PIECE_BYTES: usize = 16 * 1024;
/// Pause after a failed read of history.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// Reconnects after a shutdown are spread over this.
const RECONNECT_SPREAD_MS: u64 = 3000;

/// How long after a greeting the same frame may come live.
const GREETING_ECHO: Duration = Duration::from_secs(1);

/// How often a silent stream shows that it lives.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub beat: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(15),
        }
    }
}

/// What a stream needs besides its tail.
#[derive(Debug, Clone)]
pub struct Setting {
    pub form: Form,
    pub pace: Pace,
    pub clock: Arc<dyn Clock>,
}

/// A connection's place in a run's stream.
#[derive(Debug)]
pub struct Viewer<S: EventStore, B: LiveBus> {
    attached: Attached<S, B>,
    setting: Setting,
    changes: watch::Receiver<()>,
    number: u64,
    cursor: i64,
    mark: u64,
    pending: VecDeque<Bytes>,
    /// Events of the next read of history.
    page: usize,
    /// History has been read to its end once.
    caught_up: bool,
    ended: Option<Closed>,
    last_sent: Instant,
    last_beat: Instant,
    failing_since: Option<Instant>,
    /// The greeting, as long as it may come again.
    greeted: Option<(Bytes, Instant)>,
    /// Fires at the next beat or a little before; never set anew for a frame.
    timer: Pin<Box<Sleep>>,
}

impl<S: EventStore, B: LiveBus> Viewer<S, B> {
    /// Begins strictly after `cursor`; the opening frames are queued.
    pub fn new(attached: Attached<S, B>, cursor: i64, setting: Setting) -> Self {
        let run = attached.tail.run;
        let opening = [
            frames::RETRY,
            frames::connected(setting.form, run, setting.clock.now()),
        ];
        let now = Instant::now();
        Self {
            changes: attached.tail.changes(),
            number: attached.tails.next_number(),
            mark: attached.tail.mark(),
            page: FIRST_PAGE.min(attached.tails.sizes().page),
            attached,
            cursor,
            pending: VecDeque::from(opening),
            caught_up: false,
            ended: None,
            last_sent: now,
            last_beat: now,
            failing_since: None,
            greeted: None,
            timer: Box::pin(tokio::time::sleep(setting.pace.beat)),
            setting,
        }
    }

    /// Adds a frame to be sent right after the opening. The same frame coming live at about the same time is left out:
    /// it is the same message.
    pub fn greet(&mut self, frame: Option<Bytes>) {
        self.greeted = frame.clone().map(|frame| (frame, Instant::now()));
        self.pending.extend(frame);
    }

    /// Takes the greeting out of the transient frames, which come after the stored ones.
    fn drop_greeting(&mut self, stored: usize) {
        if let Some((greeting, at)) = &self.greeted
            && let Some(place) = (stored..self.pending.len()).find(|place| self.pending[*place] == *greeting)
        {
            if at.elapsed() < GREETING_ECHO {
                self.pending.remove(place);
            }
            self.greeted = None;
        }
    }

    pub fn run(&self) -> RunId {
        self.attached.tail.run
    }

    /// The frames as a body.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        futures::stream::unfold(self, |mut viewer| async move {
            let bytes = viewer.next().await?;
            Some((Ok(bytes), viewer))
        })
    }

    /// The next frame, with others that are ready too; nothing when the stream is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.take_piece() {
                self.last_sent = Instant::now();
                return Some(bytes);
            }
            if self.ended.is_some() {
                return None;
            }
            // Before the flags and the ring are looked at: what changes afterwards wakes.
            self.changes.mark_unchanged();
            if self.closes_at().is_some_and(|at| at <= Instant::now()) {
                self.end_with(self.farewell(), Closed::Shutdown);
            } else if !self.read_ring() {
                if self.caught_up {
                    self.wait().await;
                } else {
                    self.read_page().await;
                }
            }
        }
    }

    fn take_piece(&mut self) -> Option<Bytes> {
        let first = self.pending.pop_front()?;
        let mut bytes = first.len();
        let fits = |frame: &&Bytes| {
            bytes += frame.len();
            bytes <= PIECE_BYTES
        };
        let more = self.pending.iter().take_while(fits).count();
        if more == 0 {
            return Some(first);
        }
        let mut piece = BytesMut::with_capacity(bytes.min(PIECE_BYTES));
        piece.extend_from_slice(&first);
        for frame in self.pending.drain(..more) {
            piece.extend_from_slice(&frame);
        }
        Some(piece.freeze())
    }

    fn closes_at(&self) -> Option<Instant> {
        self.attached.tails.closes_at(self.number)
    }

    fn farewell(&self) -> Bytes {
        // Any number that differs between viewers will do.
        let spread = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        frames::disconnected(self.setting.form, self.run(), spread % RECONNECT_SPREAD_MS)
    }

    fn end_with(&mut self, frame: Bytes, reason: Closed) {
        self.pending.push_back(frame);
        self.ended = Some(reason);
    }

    fn interrupt(&mut self) {
        let frame = frames::interrupted(self.setting.form, self.run());
        self.end_with(frame, Closed::Interrupted);
    }

    /// Takes what the ring has; `true` when something is to be sent. Notes when pages are needed again.
    fn read_ring(&mut self) -> bool {
        let (form, place) = (self.setting.form, (self.cursor, self.mark));
        let tail = &self.attached.tail;
        let look = tail.look(form, place, RING_BATCH, &mut self.pending);
        self.cursor = look.cursor;
        self.mark = look.mark;
        self.drop_greeting(look.given);
        self.delivered(look.given);
        if let Some(oldest) = look.oldest.filter(|_| self.caught_up) {
            let lag = self.setting.clock.now().duration_since(oldest);
            self.attached.tails.meter().deliver_lag.record(lag.as_secs_f64());
        }
        if look.complete {
            self.ended = Some(Closed::Complete);
        }
        if look.behind && self.caught_up {
            self.caught_up = false;
            self.attached.tails.meter().fill(Cause::RingMiss);
        }
        !self.pending.is_empty()
    }

    fn delivered(&self, events: usize) {
        if events > 0 {
            self.attached.tails.meter().delivered.increment(events as u64);
        }
    }

    async fn read_page(&mut self) {
        let most = self.page;
        let page = self.attached.tails.store().page(self.run(), self.cursor, most);
        match page.await {
            Ok(page) => {
                self.take_page(&page, page.len() < most);
                #[cfg(test)]
                if self.caught_up {
                    self.attached.tails.subscribe(&self.attached.tail).await;
                }
            }
            Err(error) => self.read_failed(&error).await,
        }
    }

    fn take_page(&mut self, page: &[Event], last: bool) {
        self.failing_since = None;
        self.attached.tails.meter().replay_pages.increment(1);
        let mut bytes = 0;
        for event in page {
            if event.seq != self.cursor + 1 && !self.may_have_holes() {
                self.attached.tails.meter().violation();
                return self.interrupt();
            }
            let frame = frames::render(event, self.setting.form);
            bytes += frame.len();
            self.pending.push_back(frame);
            self.cursor = event.seq;
            if frames::is_last(event) {
                self.ended = Some(Closed::Complete);
                break;
            }
        }
        self.delivered(page.len());
        if last && self.ended.is_none() {
            self.caught_up = true;
            let tails = &self.attached.tails;
            tails.caught_up(&self.attached.tail, self.cursor);
        } else if let Some(fitting) = (PAGE_BYTES * page.len()).checked_div(bytes) {
            self.page = fitting.clamp(1, self.attached.tails.sizes().page);
        }
    }

    async fn read_failed(&mut self, error: &S::Error) {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= STORE_PATIENCE {
            tracing::warn!(error = %crate::error::chain(error), "stream interrupted");
            return self.interrupt();
        }
        tokio::time::sleep(READ_AGAIN).await;
        if Instant::now() >= self.beat_at() {
            self.beat();
        }
    }

    /// Comments break silence; heartbeats of the named form come whatever else does.
    fn beat_at(&self) -> Instant {
        let since = match self.setting.form {
            Form::Default => self.last_sent,
            Form::Named => self.last_beat,
        };
        since + self.setting.pace.beat
    }

    fn beat(&mut self) {
        self.last_beat = Instant::now();
        let now = self.setting.clock.now();
        self.pending.push_back(frames::beat(self.setting.form, now));
    }

    /// Returns when there may be something to do; after a beat there is something to send.
    async fn wait(&mut self) {
        if self.attached.tails.interrupted() {
            return self.interrupt();
        }
        let beat_at = self.beat_at();
        let due = self.closes_at().map_or(beat_at, |at| at.min(beat_at));
        // A timer that fires too early is harmless; setting it anew for each frame would not be.
        if self.timer.is_elapsed() || due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        tokio::select! {
            biased;
            // The sender lives as long as the tail that this viewer holds.
            _ = self.changes.changed() => {}
            () = self.timer.as_mut() => {
                if Instant::now() >= beat_at {
                    self.beat();
                }
            }
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the form for tests looks at it")]
    const fn may_have_holes(&self) -> bool {
        false
    }

    #[cfg(test)]
    fn may_have_holes(&self) -> bool {
        self.attached.tail.common.broken == Broken::GlobalSerial
    }
}

impl<S: EventStore, B: LiveBus> Drop for Viewer<S, B> {
    fn drop(&mut self) {
        let reason = self.ended.filter(|_| self.pending.is_empty());
        self.attached.tails.meter().closed(reason.unwrap_or(Closed::Gone));
    }
}
