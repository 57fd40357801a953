//! What a program prints: kept up to a limit, read to the end so that it never waits for us. Should it print a secret of
//! ours, in whatever pieces, the secret is not kept. All of it is told piece by piece, the limit is only of what is kept.

use agent::ports::{OutputPiece, OutputStream};
use domain::redact::ChunkRedactor;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

/// Kept of each stream.
const KEPT_BYTES: usize = 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// The pipe's end comes when the last process is gone; this long after that we stop waiting for it.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    truncated: bool,
}

/// A stream being read.
#[derive(Debug)]
pub(super) struct Capture {
    kept: Arc<Mutex<Kept>>,
    reader: JoinHandle<()>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Capture {
    /// Reads `stream` to its end; `live` hears of it.
    pub(super) fn start(
        stream: impl AsyncRead + Unpin + Send + 'static,
        chunks: ChunkRedactor,
        live: Live,
    ) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let reader = tokio::spawn(drain(stream, chunks, Arc::clone(&kept), live));
        Self { kept, reader }
    }

    /// The text so far, after the end of the stream, and whether it was cut.
    pub(super) async fn finish(mut self) -> (String, bool) {
        if tokio::time::timeout(END_TIMEOUT, &mut self.reader).await.is_err() {
            tracing::warn!("the output of a sandboxed program did not end with it");
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = std::mem::take(&mut *kept);
        let (text, cut) = text(kept.bytes);
        (text, cut || kept.truncated)
    }
}

fn keep(kept: &Mutex<Kept>, bytes: &[u8]) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let room = KEPT_BYTES - kept.bytes.len();
    kept.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    kept.truncated |= bytes.len() > room;
}

async fn drain(
    mut stream: impl AsyncRead + Unpin,
    mut chunks: ChunkRedactor,
    kept: Arc<Mutex<Kept>>,
    mut live: Live,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => {
                let rest = chunks.finish();
                keep(&kept, &rest);
                return live.tell(&rest, true).await;
            }
            Ok(count) => {
                let seen = chunks.push(&chunk[..count]);
                keep(&kept, &seen);
                live.tell(&seen, false).await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the output of a sandboxed program");
                return;
            }
        }
    }
}

/// A stream as it is told while it goes on. Offsets count what is told, after redaction.
#[derive(Debug)]
pub(super) struct Live {
    stream: OutputStream,
    offset: u64,
    /// The start of a character whose end has not come yet.
    partial: Vec<u8>,
    to: Sender<OutputPiece>,
}

impl Live {
    pub(super) fn new(stream: OutputStream, to: Sender<OutputPiece>) -> Self {
        Self {
            stream,
            offset: 0,
            partial: vec![],
            to,
        }
    }

    async fn tell(&mut self, bytes: &[u8], is_last: bool) {
        self.partial.extend_from_slice(bytes);
        let tail = if is_last { 0 } else { unfinished(&self.partial) };
        let rest = self.partial.split_off(self.partial.len() - tail);
        let whole = std::mem::replace(&mut self.partial, rest);
        if whole.is_empty() {
            return;
        }
        let piece = OutputPiece {
            stream: self.stream,
            offset: self.offset,
            text: String::from_utf8_lossy(&whole).replace('\0', "\u{FFFD}"),
            gap: false,
        };
        self.offset += whole.len() as u64;
        // Who heard it has gone: the execution is being given up.
        self.to.send(piece).await.unwrap_or_default();
    }
}

/// Bytes at the end that may be the start of a longer character.
fn unfinished(bytes: &[u8]) -> usize {
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let needed = match byte {
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            0x80..=0xBF => continue,
            _ => 0,
        };
        return if needed > back + 1 { back + 1 } else { 0 };
    }
    0
}

/// Text that any store takes: UTF-8 of at most [`KEPT_BYTES`], no NUL. What is not UTF-8 is shown as `U+FFFD`,
/// but a last character that was only cut in two is left out.
pub(crate) fn text(bytes: Vec<u8>) -> (String, bool) {
    let end = match std::str::from_utf8(&bytes) {
        Err(error) if bytes.len() == KEPT_BYTES && error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    };
    let mut text = String::from_utf8_lossy(&bytes[..end]).replace('\0', "\u{FFFD}");
    let cut = text.len() > KEPT_BYTES;
    if cut {
        text.truncate(text.floor_char_boundary(KEPT_BYTES));
    }
    (text, cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// Nobody listens.
    fn unheard() -> Live {
        Live::new(OutputStream::Stdout, mpsc::channel(1).0)
    }

    #[tokio::test]
    async fn pieces_follow_each_other_without_loss_and_no_character_is_cut() {
        let (to, mut pieces) = mpsc::channel(100);
        let mut live = Live::new(OutputStream::Stderr, to);
        let text = "a\u{e4}\u{20ac}\u{1f600}z";
        for byte in text.as_bytes() {
            live.tell(&[*byte], false).await;
        }
        live.tell(&[0xff, 0xe2], false).await;
        live.tell(b"", true).await;
        drop(live);
        let (mut all, mut offset) = (String::new(), 0);
        while let Some(piece) = pieces.recv().await {
            assert_eq!((piece.stream, piece.gap), (OutputStream::Stderr, false));
            assert!(piece.offset >= offset);
            offset = piece.offset;
            all += &piece.text;
        }
        assert_eq!(all, format!("{text}\u{fffd}\u{fffd}"));
        assert_eq!(offset as usize, text.len() + 1);
    }

    #[tokio::test]
    async fn keeps_the_start_and_reads_to_the_end() {
        let long = vec![b'x'; KEPT_BYTES + 10];
        let (text, truncated) =
            Capture::start(std::io::Cursor::new(long), ChunkRedactor::default(), unheard())
                .finish()
                .await;
        assert_eq!((text.len(), truncated), (KEPT_BYTES, true));
        let (text, truncated) = Capture::start(&b"a\xff\0b"[..], ChunkRedactor::default(), unheard())
            .finish()
            .await;
        assert_eq!((text.as_str(), truncated), ("a\u{FFFD}\u{FFFD}b", false));
    }

    #[tokio::test]
    async fn a_secret_printed_in_pieces_or_across_the_limit_is_not_kept() {
        let secrets = domain::Redactor::new(["s3cret-of-the-worker"], []);
        let (mut pipe, reader) = tokio::io::duplex(4);
        let capture = Capture::start(reader, secrets.chunks(), unheard());
        tokio::io::AsyncWriteExt::write_all(&mut pipe, b"<s3cret-of-the-worker>")
            .await
            .unwrap();
        drop(pipe);
        assert_eq!(capture.finish().await.0, "<[REDACTED]>");
        let mut long = vec![b'x'; KEPT_BYTES - 5];
        long.extend_from_slice(b"s3cret-of-the-worker");
        let (text, truncated) = Capture::start(std::io::Cursor::new(long), secrets.chunks(), unheard())
            .finish()
            .await;
        assert!(
            truncated && !text.contains("s3cr"),
            "{}",
            &text[text.len() - 20..]
        );
    }

    #[test]
    fn a_character_cut_in_two_is_left_out_and_much_garbage_stays_within_the_limit() {
        let mut bytes = vec![b'x'; KEPT_BYTES - 1];
        bytes.push("ü".as_bytes()[0]);
        assert_eq!(text(bytes).0.len(), KEPT_BYTES - 1);
        let (text, cut) = text(vec![0xff; KEPT_BYTES]);
        assert!(cut && text.len() <= KEPT_BYTES);
    }
}
