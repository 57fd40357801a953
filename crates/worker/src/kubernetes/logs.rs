//! The live log of a call: for display only. The result never depends on it.
//!
//! The log of a pod loses lines without an error, repeats others after each resume and ends cleanly in both cases. The
//! supervisor's lines carry their place in the tool's output, so nothing is shown twice and what is missing is known; it is
//! read from the store when the call has ended.

use super::calls::{CallError, Calls};
use agent::ports::{OutputPiece, OutputStream, SandboxEvents};
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use jiff::Timestamp;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use toolbox::live::{Channel, Line};

/// Longest line that is kept; the supervisor's are shorter by far.
const LINE_BYTES: usize = 64 * 1024;
/// Pauses before the log is opened again: while the container starts, and after that or an empty answer.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Tries at the short pause: containers start within seconds.
const SHORT_TRIES: u32 = 40;
/// Silence after which the log is opened anew.
const IDLE: Duration = Duration::from_mins(2);
/// Parts of one channel that are missing and remembered; more become one.
const MAX_GAPS: usize = 256;

/// One channel as far as it was shown.
#[derive(Debug, Default, Clone)]
struct Shown {
    next: u64,
    /// Missing before `next`, in order.
    gaps: Vec<Range<u64>>,
}

impl Shown {
    /// Whether the line is news, and whether something before it is missing.
    fn take(&mut self, line: &Line) -> Option<bool> {
        let end = line.offset.saturating_add(line.length);
        if line.offset >= self.next {
            let gap = line.offset > self.next;
            if gap {
                self.miss(self.next..line.offset);
            }
            self.next = end;
            return Some(gap);
        }
        self.fill(line.offset..end).then_some(true)
    }

    fn miss(&mut self, range: Range<u64>) {
        let is_full = self.gaps.len() >= MAX_GAPS;
        match self.gaps.last_mut() {
            Some(last) if is_full => last.end = range.end,
            _ => self.gaps.push(range),
        }
    }

    /// A line inside what was missing came after all.
    fn fill(&mut self, range: Range<u64>) -> bool {
        let holds = |gap: &Range<u64>| gap.start <= range.start && range.end <= gap.end;
        let Some(place) = self.gaps.iter().position(holds) else {
            return false;
        };
        let gap = self.gaps.remove(place);
        let rest = [gap.start..range.start, range.end..gap.end];
        for (at, part) in rest.into_iter().filter(|part| !part.is_empty()).enumerate() {
            self.gaps.insert(place + at, part);
        }
        true
    }

    /// What is missing of `total` bytes.
    fn missing(&self, total: u64) -> Vec<Range<u64>> {
        let mut missing = self.gaps.clone();
        if self.next < total {
            missing.push(self.next..total);
        }
        missing
    }
}

/// What was shown of both channels, and how far the log was read.
#[derive(Debug, Default)]
struct Progress {
    shown: [Shown; 2],
    last: Option<Timestamp>,
}

impl Progress {
    /// The piece to show of a line of the log, when it is news.
    fn take(&mut self, raw: &str) -> Option<OutputPiece> {
        let (time, text) = raw.split_once(' ')?;
        let time: Timestamp = time.parse().ok()?;
        self.last = self.last.max(Some(time));
        let line = Line::parse(text)?;
        let gap = self.shown[index(line.channel)].take(&line)?;
        let mut text = line.text;
        if line.ended {
            text.push('\n');
        }
        Some(OutputPiece {
            stream: stream(line.channel),
            offset: line.offset,
            text,
            gap,
        })
    }
}

const fn index(channel: Channel) -> usize {
    match channel {
        Channel::Stdout => 0,
        Channel::Stderr => 1,
    }
}

/// The port's name of a channel.
pub(super) const fn stream(channel: Channel) -> OutputStream {
    match channel {
        Channel::Stdout => OutputStream::Stdout,
        Channel::Stderr => OutputStream::Stderr,
    }
}

/// What one opening of the log gave.
#[derive(Debug, Default)]
struct Read {
    lines: usize,
    /// Lines of output that were not shown before.
    news: usize,
}

/// The log of one pod being followed; shared with who follows the call.
#[derive(Debug, Default, Clone)]
pub(super) struct LiveLog {
    progress: Arc<Mutex<Progress>>,
    /// The stream ended: perhaps the container has.
    pub(super) ended: Arc<Notify>,
}

impl LiveLog {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parts of a channel that were not shown, of `total` bytes.
    pub(super) fn missing(&self, channel: Channel, total: u64) -> Vec<Range<u64>> {
        self.progress().shown[index(channel)].missing(total)
    }

    /// Shows the pod's log until dropped. Nothing of it is an error: the log may be away while the call goes on.
    pub(super) async fn follow(&self, calls: &Calls, pod: &str, events: &impl SandboxEvents) {
        let (mut tries, mut pause) = (0_u32, FIRST_PAUSE);
        loop {
            let since = self.progress().last;
            let read = match calls.log(pod, since).await {
                Ok(log) => self.read(log, events).await,
                Err(CallError::NotFound | CallError::Invalid(_)) => Read::default(),
                Err(error) => {
                    tracing::debug!(pod, %error, "log of a tool cannot be read");
                    Read::default()
                }
            };
            if read.lines > 0 {
                self.ended.notify_one();
            }
            if read.news > 0 {
                (tries, pause) = (0, FIRST_PAUSE);
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            if tries > SHORT_TRIES || since.is_some() {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Shows what comes.
    async fn read(&self, log: impl AsyncBufRead, events: &impl SandboxEvents) -> Read {
        let (mut log, mut line, mut read) = (pin!(log), vec![], Read::default());
        loop {
            match tokio::time::timeout(IDLE, next_line(log.as_mut(), &mut line)).await {
                Ok(Ok(true)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "log of a tool broke off");
                    return read;
                }
                Ok(Ok(false)) | Err(_) => return read,
            }
            read.lines += 1;
            let piece = self.progress().take(&String::from_utf8_lossy(&line));
            if let Some(piece) = piece {
                read.news += 1;
                events.output(piece);
            }
        }
    }
}

/// The next whole line without its end, cut at [`LINE_BYTES`]; `false` at the end. A last line without end is a torn one:
/// it comes again.
async fn next_line(
    mut log: std::pin::Pin<&mut impl AsyncBufRead>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    line.clear();
    loop {
        let bytes = log.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(bytes.len());
        let room = LINE_BYTES.saturating_sub(line.len());
        line.extend_from_slice(&bytes[..taken.min(room)]);
        let used = end.map_or(taken, |end| end + 1);
        log.consume_unpin(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(second: u32, line: &str) -> String {
        format!("2026-11-20T17:00:{second:02}.5Z {line}")
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_a_gap_is_told_and_remembered() {
        let mut progress = Progress::default();
        let first = progress.take(&raw(1, "o0:4 one")).unwrap();
        assert_eq!(
            (first.text.as_str(), first.offset, first.gap),
            ("one\n", 0, false)
        );
        assert_eq!(progress.take(&raw(1, "o0:4 one")), None, "replayed");
        let partial = progress.take(&raw(2, "o4:2+tw")).unwrap();
        assert_eq!(partial.text, "tw");
        let after = progress.take(&raw(3, "o10:4 end")).unwrap();
        assert_eq!((after.offset, after.gap), (10, true));
        assert_eq!(progress.shown[0].missing(20), [6..10, 14..20]);
        assert_eq!(
            progress.take(&raw(3, "e0:2 x")).unwrap().stream,
            OutputStream::Stderr
        );
        assert_eq!(progress.last.unwrap().as_second() % 60, 3);
        for other in ["fetching the workspace", "", "no time"] {
            assert_eq!(progress.take(&raw(4, other)), None, "{other}");
        }
    }

    #[test]
    fn a_line_of_a_gap_that_comes_after_all_closes_it() {
        let mut shown = Shown::default();
        let line = |offset, length| Line {
            channel: Channel::Stdout,
            offset,
            length,
            text: String::new(),
            ended: false,
        };
        assert_eq!(shown.take(&line(10, 10)), Some(true));
        assert_eq!(shown.take(&line(4, 2)), Some(true));
        assert_eq!(shown.missing(20), [0..4, 6..10]);
        assert_eq!(shown.take(&line(4, 2)), None);
    }

    #[tokio::test]
    async fn lines_are_cut_at_their_limit_and_a_torn_last_one_is_left_for_the_next_time() {
        let text = format!("{}\nshort\ntorn", "x".repeat(LINE_BYTES + 10));
        let source = futures::io::BufReader::with_capacity(7, futures::io::Cursor::new(text));
        let mut log = pin!(source);
        let mut line = vec![];
        assert!(next_line(log.as_mut(), &mut line).await.unwrap());
        assert_eq!(line.len(), LINE_BYTES);
        assert!(next_line(log.as_mut(), &mut line).await.unwrap());
        assert_eq!(line, b"short");
        assert!(!next_line(log.as_mut(), &mut line).await.unwrap());
    }

    proptest! {
        /// Cuts anywhere, each resume from the beginning of the second: every line once.
        #[test]
        fn a_log_that_is_cut_and_resumed_is_shown_once_and_whole(
            seconds in proptest::collection::vec(0_u32..50, 1..60),
            cuts in proptest::collection::vec(1_usize..20, 0..40),
        ) {
            let mut seconds = seconds;
            seconds.sort_unstable();
            let lines: Vec<(u32, String)> = seconds.iter().enumerate()
                .map(|(at, second)| (*second, raw(*second, &format!("o{}:3 {at:02}", at * 3)))).collect();
            let (mut progress, mut shown) = (Progress::default(), String::new());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let since = progress.last.map_or(0, |last| (last.as_second() % 60) as u32);
                for (_, line) in lines.iter().filter(|(second, _)| *second >= since).take(cut) {
                    if let Some(piece) = progress.take(line) {
                        prop_assert!(!piece.gap);
                        shown.push_str(&piece.text);
                    }
                }
            }
            let whole: String = (0..lines.len()).map(|at| format!("{at:02}\n")).collect();
            prop_assert_eq!(shown, whole);
        }
    }
}
