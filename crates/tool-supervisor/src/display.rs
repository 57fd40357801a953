//! Our own standard output: what the tool prints, line by line, for live display, and our own words.
//!
//! One thread writes; it may stand still when nobody reads. Whoever has something to show waits a little for it, then goes on
//! without: readers see the gap in the offsets, and the whole output is stored elsewhere.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};
use toolbox::live::{Channel, Line};

/// Pieces on their way to the writer.
const QUEUE: usize = 64;
/// A line without its end is shown after this time.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// Longer lines are shown in pieces: container runtimes cut lines at 16 KiB.
const PIECE_BYTES: usize = 4096;
/// A reader that stands still is waited for this long, once.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
/// At the end, for what is left.
const END_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
enum Item {
    Piece(Channel, u64, Vec<u8>),
    Words(String),
}

/// The writer's other end. Clones keep their own patience.
#[derive(Debug, Clone)]
pub(crate) struct Display {
    queue: SyncSender<Item>,
    /// Nobody reads: pieces are dropped without waiting until one finds room.
    standing: bool,
}

/// Waits for the writer.
#[derive(Debug)]
pub(crate) struct Writer(Receiver<()>);

impl Display {
    pub(crate) fn start() -> std::io::Result<(Self, Writer)> {
        let (queue, items) = sync_channel(QUEUE);
        let (ended, writer) = channel();
        std::thread::Builder::new()
            .name("display".to_owned())
            .spawn(move || {
                write(&items, &mut std::io::stdout());
                drop(ended);
            })?;
        let display = Self {
            queue,
            standing: false,
        };
        Ok((display, Writer(writer)))
    }

    /// What comes from the tool.
    pub(crate) fn show(&mut self, channel: Channel, offset: u64, bytes: &[u8]) {
        self.offer(Item::Piece(channel, offset, bytes.to_vec()));
    }

    /// A line of our own.
    pub(crate) fn say(&mut self, words: impl Into<String>) {
        self.offer(Item::Words(words.into()));
    }

    fn offer(&mut self, mut item: Item) {
        let patience = if self.standing { Duration::ZERO } else { PATIENCE };
        let until = Instant::now() + patience;
        loop {
            item = match self.queue.try_send(item) {
                Ok(()) => {
                    self.standing = false;
                    return;
                }
                Err(TrySendError::Full(item)) if Instant::now() < until => item,
                Err(_) => {
                    self.standing = true;
                    return;
                }
            };
            std::thread::sleep(POLL);
        }
    }
}

impl Writer {
    /// Waits until everything is written; all [`Display`]s are gone.
    pub(crate) fn finish(self) {
        // Nothing is ever sent: either way it is over.
        self.0.recv_timeout(END_TIMEOUT).unwrap_or(());
    }
}

fn write(items: &Receiver<Item>, out: &mut impl Write) {
    let mut lines = [Lines::new(Channel::Stdout), Lines::new(Channel::Stderr)];
    loop {
        let waits = lines.iter().any(|lines| !lines.pending.is_empty());
        let item = if waits {
            items.recv_timeout(FLUSH_AFTER)
        } else {
            items.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let (mut text, mut over) = (String::new(), false);
        match item {
            Ok(Item::Piece(channel, offset, bytes)) => {
                let lines = &mut lines[usize::from(channel == Channel::Stderr)];
                lines.push(offset, &bytes, &mut text);
            }
            Ok(Item::Words(words)) => {
                text.push_str(&words);
                text.push('\n');
            }
            Err(why) => {
                over = why == RecvTimeoutError::Disconnected;
                for lines in &mut lines {
                    lines.flush(over, &mut text);
                }
            }
        }
        // When nobody will ever read, it goes on without.
        if show(out, &text).is_err() || over {
            return;
        }
    }
}

fn show(out: &mut impl Write, text: &str) -> std::io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Cuts a stream into lines.
#[derive(Debug)]
struct Lines {
    channel: Channel,
    /// Not shown yet; never longer than a piece.
    pending: Vec<u8>,
    /// Where it begins in the stream.
    offset: u64,
    since: Instant,
}

impl Lines {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            pending: vec![],
            offset: 0,
            since: Instant::now(),
        }
    }

    fn push(&mut self, offset: u64, mut bytes: &[u8], out: &mut String) {
        if offset != self.offset + self.pending.len() as u64 {
            self.flush(true, out);
            self.offset = offset;
        }
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.pending.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let count = end.map_or(room.min(bytes.len()), |end| end + 1);
            let (now, later) = bytes.split_at(count);
            bytes = later;
            if end.is_some() && self.pending.is_empty() {
                // The usual case: a whole line.
                self.emit(now, out);
                continue;
            }
            if self.pending.is_empty() {
                self.since = Instant::now();
            }
            self.pending.extend_from_slice(now);
            if end.is_some() {
                self.emit_pending(self.pending.len(), out);
            } else if self.pending.len() == PIECE_BYTES {
                self.emit_pending(whole(&self.pending), out);
            }
        }
        // A stream that never pauses still shows its unended line.
        if !self.pending.is_empty() && self.since.elapsed() > FLUSH_AFTER {
            self.flush(false, out);
        }
    }

    /// Shows what is pending; a character that is not whole yet only at the `end`.
    fn flush(&mut self, end: bool, out: &mut String) {
        let count = if end {
            self.pending.len()
        } else {
            whole(&self.pending)
        };
        if count > 0 {
            self.emit_pending(count, out);
        }
    }

    fn emit_pending(&mut self, count: usize, out: &mut String) {
        let mut pending = std::mem::take(&mut self.pending);
        self.emit(&pending[..count], out);
        pending.drain(..count);
        self.pending = pending;
        self.since = Instant::now();
    }

    fn emit(&mut self, bytes: &[u8], out: &mut String) {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let text = String::from_utf8_lossy(text);
        let text = if text.contains('\0') {
            text.replace('\0', "\u{FFFD}")
        } else {
            text.into_owned()
        };
        let line = Line {
            channel: self.channel,
            offset: self.offset,
            length: bytes.len() as u64,
            text,
            ended: bytes.last() == Some(&b'\n'),
        };
        self.offset += line.length;
        // Writing to a string cannot fail.
        writeln!(out, "{line}").unwrap_or_default();
    }
}

/// Length without a character at the end that is only begun; all of it where that would be nothing or is no text at all.
fn whole(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let begun = (tail..bytes.len()).find(|&at| match bytes[at] {
        0xc2..=0xdf => at + 2 > bytes.len(),
        0xe0..=0xef => at + 3 > bytes.len(),
        0xf0..=0xf4 => at + 4 > bytes.len(),
        _ => false,
    });
    begun.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Vec<Line> {
        text.lines().map(|line| Line::parse(line).unwrap()).collect()
    }

    #[test]
    fn lines_end_where_the_tool_ends_them_and_a_gap_shows_in_the_offsets() {
        let (mut lines, mut out) = (Lines::new(Channel::Stdout), String::new());
        lines.push(0, b"one\ntw", &mut out);
        lines.push(6, b"o\n", &mut out);
        lines.push(100, b"late", &mut out);
        lines.flush(true, &mut out);
        assert_eq!(out, "o0:4 one\no4:4 two\no100:4+late\n");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let (mut lines, mut out) = (Lines::new(Channel::Stderr), String::new());
        let text = "ü".repeat(PIECE_BYTES);
        lines.push(0, &[b"x", text.as_bytes()].concat(), &mut out);
        lines.flush(true, &mut out);
        let pieces = parsed(&out);
        assert!(
            pieces
                .iter()
                .all(|line| !line.text.contains('\u{FFFD}') && !line.ended)
        );
        assert_eq!(
            pieces.iter().map(|line| line.text.as_str()).collect::<String>(),
            format!("x{text}")
        );
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_line(bytes in prop::collection::vec(any::<u8>(), 0..9000), cut in 1_usize..5000) {
            let (mut lines, mut out, mut at) = (Lines::new(Channel::Stdout), String::new(), 0);
            for chunk in bytes.chunks(cut) {
                lines.push(at, chunk, &mut out);
                at += chunk.len() as u64;
                lines.flush(false, &mut out);
            }
            lines.flush(true, &mut out);
            let mut next = 0;
            for line in parsed_bytes(&out) {
                prop_assert_eq!(line.offset, next);
                prop_assert!(line.length <= PIECE_BYTES as u64);
                next += line.length;
            }
            prop_assert_eq!(next, bytes.len() as u64);
        }
    }

    /// Only at line feeds: carriage returns belong to the text.
    fn parsed_bytes(text: &str) -> Vec<Line> {
        let lines = text.split_terminator('\n');
        lines.map(|line| Line::parse(line).unwrap()).collect()
    }
}
