//! What a running tool prints and what a model says, on its run's live channel: transient frames, nothing of it is stored.
//!
//! Invariants:
//! - Whoever prints never waits: what cannot be taken is dropped, and the next frame says that something is missing.
//! - A step makes at most ten frames a second of at most 8 KiB each; of more only the newest is shown.
//! - A frame ends with a line where it can, so that a secret, which never spans lines, is not cut in two.

mod text;

use crate::log::with_sources;
use agent::ports::{OutputPiece, OutputStream};
use domain::clock::wire_time;
use domain::ids::{RunId, StepId};
use domain::{Clock, Redactor};
use queue::Queue;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use text::Said;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Time between two frames of a step.
const FRAME_EVERY: Duration = Duration::from_millis(100);
/// Text of one frame, and of what waits for its frame.
const FRAME_BYTES: usize = 8 * 1024;
/// A line that is not ended is shown after this time.
const PARTIAL_AFTER: Duration = Duration::from_millis(300);
/// Pieces on their way to the task.
const BACKLOG: usize = 256;

type Piece = (StepId, OutputPiece);

/// Shows the output of one run's steps. Its task begins with the first piece and ends with this value.
#[derive(Debug)]
pub struct Live {
    run_id: RunId,
    queue: Queue,
    redactor: Arc<Redactor>,
    clock: Arc<dyn Clock>,
    pieces: OnceLock<mpsc::Sender<Piece>>,
    words: OnceLock<mpsc::UnboundedSender<Said>>,
    /// Pieces were dropped since the last one taken; by stream.
    lost: [AtomicBool; 2],
}

impl Live {
    pub fn new(queue: Queue, run_id: RunId, redactor: Arc<Redactor>, clock: Arc<dyn Clock>) -> Self {
        Self {
            run_id,
            queue,
            redactor,
            clock,
            pieces: OnceLock::new(),
            words: OnceLock::new(),
            lost: Default::default(),
        }
    }

    /// Takes a piece, or drops it.
    pub fn show(&self, step_id: StepId, mut piece: OutputPiece) {
        let lost = &self.lost[usize::from(piece.stream == OutputStream::Stderr)];
        piece.gap |= lost.swap(false, Ordering::Relaxed);
        let pieces = self.pieces.get_or_init(|| self.start());
        if pieces.try_send((step_id, piece)).is_err() {
            lost.store(true, Ordering::Relaxed);
        }
    }

    /// Takes a piece of a model's reply. A reply is short, so all of it is taken.
    pub fn show_text(&self, turn: u32, try_number: u32, text: &str) {
        let words = self.words.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(self.shown().pass_text_on(receiver));
            sender
        });
        let said = Said {
            turn,
            try_number,
            text: text.to_owned(),
        };
        if words.send(said).is_err() {
            tracing::debug!(run_id = %self.run_id, "model text not shown");
        }
    }

    fn shown(&self) -> Shown {
        Shown {
            run_id: self.run_id,
            queue: self.queue.clone(),
            redactor: self.redactor.clone(),
            clock: self.clock.clone(),
        }
    }

    fn start(&self) -> mpsc::Sender<Piece> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(self.shown().pass_on(receiver));
        sender
    }
}

struct Shown {
    run_id: RunId,
    queue: Queue,
    redactor: Arc<Redactor>,
    clock: Arc<dyn Clock>,
}

impl Shown {
    async fn pass_on(self, mut pieces: mpsc::Receiver<Piece>) {
        let mut waiting = Waiting::default();
        let mut tick = interval(FRAME_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick(), if !waiting.is_empty() => {
                    if let Some(frame) = waiting.frame(Instant::now()) {
                        self.publish(frame).await;
                    }
                }
                piece = pieces.recv() => match piece {
                    Some((step_id, piece)) => waiting.push(step_id, piece, Instant::now()),
                    None => break,
                },
            }
        }
        while let Some(frame) = waiting.last_frame() {
            self.publish(frame).await;
        }
    }

    async fn publish(&self, frame: Frame) {
        self.send(self.frame_text(&frame)).await;
    }

    async fn send(&self, text: String) {
        if let Err(error) = self.queue.publish_transient(self.run_id, text).await {
            tracing::debug!(error = %with_sources(&error), "live output not shown");
        }
    }

    fn frame_text(&self, frame: &Frame) -> String {
        let mut metadata: Value = json!({"transient": true, "event": "tool_output", "step_id": frame.step_id,
            "stream": frame.stream.as_str(), "offset": frame.offset});
        if frame.gap {
            metadata["gap"] = Value::Bool(true);
        }
        self.line(&self.redactor.text(&frame.text), &metadata)
    }

    fn line(&self, message: &str, metadata: &Value) -> String {
        let line = json!({"type": "log", "run_id": self.run_id, "seq": null, "log_type": "info",
            "message": message, "metadata": metadata, "timestamp": wire_time(self.clock.now())});
        line.to_string()
    }
}

/// One line on the channel.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    step_id: StepId,
    stream: OutputStream,
    offset: u64,
    text: String,
    gap: bool,
}

/// A stream's output that is not shown yet.
#[derive(Debug)]
struct Unshown {
    step_id: StepId,
    stream: OutputStream,
    /// Offset and text, one after the other.
    pieces: VecDeque<(u64, String)>,
    bytes: usize,
    gap: bool,
    since: Instant,
}

/// What waits for its frame: the streams take turns.
#[derive(Debug, Default)]
struct Waiting(VecDeque<Unshown>);

impl Waiting {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, step_id: StepId, piece: OutputPiece, now: Instant) {
        let same = |unshown: &Unshown| unshown.step_id == step_id && unshown.stream == piece.stream;
        let place = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push_back(Unshown {
                step_id,
                stream: piece.stream,
                pieces: VecDeque::new(),
                bytes: 0,
                gap: false,
                since: now,
            });
            self.0.len() - 1
        });
        if let Some(unshown) = self.0.get_mut(place) {
            unshown.push(piece);
        }
    }

    /// The next frame that is due.
    fn frame(&mut self, now: Instant) -> Option<Frame> {
        for _ in 0..self.0.len() {
            let mut unshown = self.0.pop_front()?;
            let frame = unshown.take(now.duration_since(unshown.since) >= PARTIAL_AFTER);
            if unshown.bytes > 0 {
                if frame.is_some() {
                    unshown.since = now;
                }
                self.0.push_back(unshown);
            }
            if frame.is_some() {
                return frame;
            }
        }
        None
    }

    /// All that is left, one frame after the other.
    fn last_frame(&mut self) -> Option<Frame> {
        self.0.pop_front()?.take(true)
    }
}

impl Unshown {
    fn push(&mut self, piece: OutputPiece) {
        if piece.gap && self.pieces.is_empty() {
            self.gap = true;
        } else if piece.gap {
            // One frame is one stretch: what came before the gap was too much to show.
            self.drop_all();
        }
        self.bytes += piece.text.len();
        self.pieces.push_back((piece.offset, piece.text));
        while self.bytes > FRAME_BYTES {
            self.drop_oldest(self.bytes - FRAME_BYTES);
        }
    }

    fn drop_all(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.gap = true;
    }

    /// At least `count` bytes of the oldest piece, at most the whole of it.
    fn drop_oldest(&mut self, count: usize) {
        let Some((offset, text)) = self.pieces.front_mut() else {
            self.bytes = 0;
            return;
        };
        self.gap = true;
        let cut = text.ceil_char_boundary(count.min(text.len()));
        self.bytes -= cut;
        if cut == text.len() {
            self.pieces.pop_front();
        } else {
            *offset += cut as u64;
            text.drain(..cut);
        }
    }

    /// Everything up to the last line end; with `partial` the unfinished line too.
    fn take(&mut self, partial: bool) -> Option<Frame> {
        let offset = self.pieces.front()?.0;
        let mut text: String = self.pieces.iter().map(|(_, text)| text.as_str()).collect();
        let end = text.rfind('\n').map(|last| last + 1);
        let end = if partial || self.bytes >= FRAME_BYTES / 2 {
            end.unwrap_or(text.len())
                .max(if partial { text.len() } else { 0 })
        } else {
            end?
        };
        let rest = text.split_off(end);
        let rest_offset = offset_at(&self.pieces, end);
        self.pieces.clear();
        self.bytes = rest.len();
        if !rest.is_empty() {
            self.pieces.push_back((rest_offset, rest));
        }
        Some(Frame {
            step_id: self.step_id,
            stream: self.stream,
            offset,
            text,
            gap: std::mem::take(&mut self.gap),
        })
    }
}

/// The offset of the byte `end` of all pieces together.
fn offset_at(pieces: &VecDeque<(u64, String)>, mut end: usize) -> u64 {
    let mut at = 0;
    for (offset, text) in pieces {
        if end < text.len() {
            return offset + end as u64;
        }
        end -= text.len();
        at = offset + text.len() as u64;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const STEP: StepId = StepId(Uuid::from_u128(5));

    fn piece(offset: u64, text: &str) -> OutputPiece {
        OutputPiece {
            stream: OutputStream::Stdout,
            offset,
            text: text.to_owned(),
            gap: false,
        }
    }

    #[test]
    fn a_frame_ends_with_a_line_and_the_rest_waits_for_its_end_or_some_time() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.push(STEP, piece(0, "one\ntw"), now);
        let frame = waiting.frame(now).unwrap();
        assert_eq!(
            (frame.offset, frame.text.as_str(), frame.gap),
            (0, "one\n", false)
        );
        assert_eq!(waiting.frame(now), None);
        waiting.push(STEP, piece(6, "o\nthr"), now);
        let frame = waiting.frame(now).unwrap();
        assert_eq!((frame.offset, frame.text.as_str()), (4, "two\n"));
        let later = now + PARTIAL_AFTER;
        let frame = waiting.frame(later).unwrap();
        assert_eq!((frame.offset, frame.text.as_str()), (8, "thr"));
        assert!(waiting.is_empty());
    }

    #[test]
    fn of_too_much_output_the_newest_is_shown_with_its_offset_and_the_gap_is_told() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let line = format!("{}\n", "x".repeat(999));
        for at in 0..20 {
            waiting.push(STEP, piece(at * 1000, &line), now);
        }
        let frame = waiting.frame(now).unwrap();
        assert!(frame.gap && frame.text.len() <= FRAME_BYTES);
        assert_eq!(frame.offset as usize + frame.text.len(), 20_000, "the newest");
        waiting.push(STEP, piece(20_000, "after\n"), now);
        assert!(!waiting.frame(now).unwrap().gap);
    }

    #[test]
    fn the_streams_take_turns_and_a_told_gap_is_passed_on() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let err = |offset, gap| OutputPiece {
            stream: OutputStream::Stderr,
            gap,
            ..piece(offset, "err\n")
        };
        waiting.push(STEP, piece(0, "out\n"), now);
        waiting.push(STEP, err(0, false), now);
        waiting.push(STEP, err(100, true), now);
        assert_eq!(waiting.frame(now).unwrap().stream, OutputStream::Stdout);
        let frame = waiting.frame(now).unwrap();
        assert_eq!(
            (frame.stream, frame.offset, frame.gap),
            (OutputStream::Stderr, 100, true)
        );
        assert!(waiting.is_empty());
    }
}
