//! One connection: a cursor that is pulled by the socket.
//!
//! A slow client is asked for less often, falls out of the ring and reads pages; it holds no queue and slows
//! nobody. Invariant: the seq of the next stored frame is the cursor + 1.

use super::frames::{self, Form};
use super::reconcile::STORE_PATIENCE;
use super::tails::Attached;
use super::{EventStore, LiveBus};
use bytes::Bytes;
use domain::{Clock, RunId};
use futures::Stream;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events per read of history.
const PAGE: usize = 500;
/// Frames taken from the ring at once.
const RING_BATCH: usize = 64;
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
    /// Fires when the process shuts down.
    pub stop: CancellationToken,
}

/// A connection's place in a run's stream.
#[derive(Debug)]
pub struct Viewer<S: EventStore, B: LiveBus> {
    attached: Attached<S, B>,
    setting: Setting,
    changes: watch::Receiver<()>,
    interruptions: watch::Receiver<bool>,
    cursor: i64,
    mark: u64,
    pending: VecDeque<Bytes>,
    /// History has been read to its end once.
    caught_up: bool,
    ended: bool,
    last_sent: Instant,
    last_beat: Instant,
    failing_since: Option<Instant>,
    /// The greeting, as long as it may come again.
    greeted: Option<(Bytes, Instant)>,
}

/// Why a waiting viewer goes on.
enum Woken {
    Changed,
    Beat,
    Interrupted,
    Stopped,
}

impl<S: EventStore, B: LiveBus> Viewer<S, B> {
    /// Begins strictly after `cursor`; the opening frames are queued.
    pub fn new(attached: Attached<S, B>, cursor: i64, setting: Setting) -> Self {
        let run = attached.tail.run;
        let opening = [
            frames::RETRY,
            frames::connected(setting.form, run, setting.clock.now()),
        ];
        Self {
            changes: attached.tail.changes(),
            interruptions: attached.tails.interruptions(),
            mark: attached.tail.mark(),
            attached,
            setting,
            cursor,
            pending: VecDeque::from(opening),
            caught_up: false,
            ended: false,
            last_sent: Instant::now(),
            last_beat: Instant::now(),
            failing_since: None,
            greeted: None,
        }
    }

    /// Adds a frame to be sent right after the opening. The same frame coming live at about the same time is left out:
    /// it is the same message.
    pub fn greet(&mut self, frame: Option<Bytes>) {
        self.greeted = frame.clone().map(|frame| (frame, Instant::now()));
        self.pending.extend(frame);
    }

    fn is_greeting(&mut self, frame: &Bytes) -> bool {
        let known = self.greeted.take_if(|(greeting, _)| greeting == frame);
        known.is_some_and(|(_, at)| at.elapsed() < GREETING_ECHO)
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

    /// The next frame, or nothing when the stream is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                self.last_sent = Instant::now();
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            if self.setting.stop.is_cancelled() {
                self.end_with(self.farewell());
                continue;
            }
            self.changes.borrow_and_update();
            if self.read_ring() {
                continue;
            }
            if self.caught_up {
                self.wait().await;
            } else {
                self.read_page().await;
            }
        }
    }

    fn farewell(&self) -> Bytes {
        let spread = u64::from(self.setting.clock.now().subsec_nanosecond().unsigned_abs()) / 1000;
        frames::disconnected(self.setting.form, self.run(), spread % RECONNECT_SPREAD_MS)
    }

    fn end_with(&mut self, frame: Bytes) {
        self.pending.push_back(frame);
        self.ended = true;
    }

    /// Takes what the ring has; `true` when something is to be sent. Notes when pages are needed again.
    fn read_ring(&mut self) -> bool {
        let form = self.setting.form;
        let look = self.attached.tail.look(form, self.cursor, self.mark, RING_BATCH);
        self.cursor = look.cursor;
        self.ended |= look.complete;
        self.mark = look.mark;
        if look.behind {
            self.caught_up = false;
        }
        self.pending.extend(look.frames);
        // Nothing follows `complete`.
        if !self.ended {
            for frame in look.transients {
                if !self.is_greeting(&frame) {
                    self.pending.push_back(frame);
                }
            }
        }
        !self.pending.is_empty()
    }

    async fn read_page(&mut self) {
        let run = self.run();
        let page = self.attached.tails.store.page(run, self.cursor, PAGE).await;
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.read_failed(&error).await,
        };
        self.failing_since = None;
        for event in &page {
            if event.seq != self.cursor + 1 {
                metrics::counter!("stream_invariant_violations_total").increment(1);
                return self.end_with(frames::interrupted(self.setting.form, run));
            }
            self.pending.push_back(frames::render(event, self.setting.form));
            self.cursor = event.seq;
            if frames::is_last(event) {
                self.ended = true;
                return;
            }
        }
        if page.len() < PAGE {
            self.caught_up = true;
            self.attached.tails.caught_up(&self.attached.tail, self.cursor);
        }
    }

    async fn read_failed(&mut self, error: &S::Error) {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= STORE_PATIENCE {
            tracing::warn!(error = %crate::error::chain(error), "stream interrupted");
            return self.end_with(frames::interrupted(self.setting.form, self.run()));
        }
        tokio::select! {
            () = tokio::time::sleep(READ_AGAIN) => {}
            () = self.setting.stop.cancelled() => {}
        }
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

    async fn wait(&mut self) {
        match self.woken().await {
            Woken::Changed => {}
            Woken::Beat => self.beat(),
            Woken::Interrupted => self.end_with(frames::interrupted(self.setting.form, self.run())),
            Woken::Stopped => self.end_with(self.farewell()),
        }
    }

    async fn woken(&mut self) -> Woken {
        let beat_at = self.beat_at();
        tokio::select! {
            biased;
            () = self.setting.stop.cancelled() => Woken::Stopped,
            // The senders live as long as the tails that this viewer holds.
            _ = self.changes.changed() => Woken::Changed,
            _ = self.interruptions.wait_for(|interrupted| *interrupted) => Woken::Interrupted,
            () = tokio::time::sleep_until(beat_at) => Woken::Beat,
        }
    }
}
