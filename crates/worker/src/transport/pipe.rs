//! From an object that is read in pieces to a reader in a thread that unpacks.
//!
//! Pieces, because each of them is tried again by itself when a connection breaks.

use crate::workspace::Objects;
use agent::ports::WorkspaceError;
use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Pieces on their way.
const PIECES: usize = 2;
const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// The reader's end.
#[derive(Debug)]
pub(super) struct Pipe {
    pieces: Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

/// The store's end.
#[derive(Debug)]
pub(super) struct Source(Sender<io::Result<Bytes>>);

pub(super) fn pipe() -> (Source, Pipe) {
    let (sender, pieces) = channel(PIECES);
    let pipe = Pipe {
        pieces,
        piece: Bytes::new(),
    };
    (Source(sender), pipe)
}

impl Source {
    /// Gives all `bytes` of an object to the reader, or the store's failure; ends early when the reader does.
    pub(super) async fn feed(self, store: &Objects, key: &str, bytes: u64) -> Result<(), WorkspaceError> {
        let mut at = 0;
        while at < bytes {
            let until = bytes.min(at + PIECE_BYTES);
            let piece = store.range(key, at..until).await.and_then(|piece| match piece {
                Some(piece) if piece.len() as u64 == until - at => Ok(piece),
                _ => Err(WorkspaceError::Storage(format!(
                    "{key} is gone, or shorter than it was said to be"
                ))),
            });
            let failure = piece.as_ref().err().map(ToString::to_string);
            let told = piece
                .as_ref()
                .map(Bytes::clone)
                .map_err(|_| io::Error::other(failure.unwrap_or_default()));
            let is_read = self.0.send(told).await.is_ok();
            piece?;
            if !is_read {
                return Ok(());
            }
            at = until;
        }
        Ok(())
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buf.len().min(self.piece.len());
        buf[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
