//! From an object that comes in pieces to a reader of a thread that unpacks.

use crate::workspace::Content;
use agent::ports::WorkspaceError;
use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Pieces on their way.
const PIECES: usize = 8;

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
    /// Gives everything to the reader, or the store's failure; ends early when the reader does.
    pub(super) async fn feed(self, mut content: Content) -> Result<(), WorkspaceError> {
        loop {
            match content.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(piece)) => {
                    if self.0.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.0.send(Err(told)).await.unwrap_or(());
                    return Err(error);
                }
            }
        }
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
