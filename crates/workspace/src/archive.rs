//! All files of a run as one zip, made while it is sent.
//!
//! Invariants:
//! - Memory does not grow with the files' sizes, only by one directory entry per file: a few pieces are under way
//!   at a time, and who reads slowly slows the store's side down.
//! - A zip that cannot be finished ends in an error; it never looks whole.
//! - Who stops reading ends the work.

use crate::life::StoredFile;
use crate::run::RunWorkspace;
use bytes::Bytes;
use domain::files::WorkspaceError;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Files that are fetched whole, several at a time; larger ones come piece by piece, in their turn.
const SMALL: u64 = 256 * 1024;
/// Small files fetched ahead.
const AHEAD: usize = 8;
/// Files named by one listing.
const PAGE: u16 = 1000;
/// Bytes of the zip that are handed on together.
const CHUNK: usize = 64 * 1024;
/// Pieces under way on each side of the packer.
const PIECES: usize = 4;

/// What is packed next.
enum Piece {
    File(StoredFile),
    Data(Bytes),
    /// There are no further files. Without it the zip is not finished.
    End,
}

type Pieces = mpsc::Sender<Result<Piece, WorkspaceError>>;
type Chunks = mpsc::Sender<Result<Bytes, WorkspaceError>>;

/// A file with its content, or without when it is to be fetched in its turn.
type Fetched = (StoredFile, Option<Bytes>);

/// The zip, piece by piece, files by path. An error is the last item.
pub fn zip(workspace: RunWorkspace) -> impl Stream<Item = Result<Bytes, WorkspaceError>> + Send + 'static {
    let (pieces, incoming) = mpsc::channel(PIECES);
    let (chunks, mut outgoing) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        if let Err(error) = feed(&workspace, &pieces).await {
            // Who does not listen any more needs no reason.
            drop(pieces.send(Err(error)).await);
        }
    });
    tokio::task::spawn_blocking(move || pack(incoming, &chunks));
    futures::stream::poll_fn(move |context| outgoing.poll_recv(context))
}

/// Sends every file; ends early when nobody takes it.
async fn feed(workspace: &RunWorkspace, pieces: &Pieces) -> Result<(), WorkspaceError> {
    let mut after: Option<String> = None;
    loop {
        let page = workspace.page(after.as_deref(), PAGE).await?;
        let mut fetched = futures::stream::iter(page.files)
            .map(|file| fetch(workspace, file))
            .buffered(AHEAD);
        while let Some(file) = fetched.next().await {
            let Some((file, content)) = file? else { continue };
            if !send(workspace, pieces, (file, content)).await? {
                return Ok(());
            }
        }
        after = page.next;
        if after.is_none() {
            drop(pieces.send(Ok(Piece::End)).await);
            return Ok(());
        }
    }
}

/// A small file with its content; nothing when it is gone meanwhile.
async fn fetch(workspace: &RunWorkspace, file: StoredFile) -> Result<Option<Fetched>, WorkspaceError> {
    if file.bytes > SMALL {
        return Ok(Some((file, None)));
    }
    let store = workspace.store("files.zip")?;
    let content = store.get(&workspace.key(&file.path)).await?;
    Ok(content.map(|content| (file, Some(content))))
}

/// False when nobody takes it any more.
async fn send(
    workspace: &RunWorkspace,
    pieces: &Pieces,
    (file, content): Fetched,
) -> Result<bool, WorkspaceError> {
    if let Some(content) = content {
        return Ok(pieces.send(Ok(Piece::File(file))).await.is_ok()
            && pieces.send(Ok(Piece::Data(content))).await.is_ok());
    }
    let key = workspace.key(&file.path);
    let Some(mut content) = workspace.store("files.zip")?.open(&key).await? else {
        return Ok(true);
    };
    if pieces.send(Ok(Piece::File(file))).await.is_err() {
        return Ok(false);
    }
    while let Some(data) = content.next().await? {
        if pieces.send(Ok(Piece::Data(data))).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Packs what comes, on a thread of its own.
fn pack(mut incoming: mpsc::Receiver<Result<Piece, WorkspaceError>>, chunks: &Chunks) {
    let given_up = Arc::new(AtomicBool::new(false));
    let out = Out {
        chunks: chunks.clone(),
        buffer: Vec::with_capacity(CHUNK),
        given_up: given_up.clone(),
    };
    let mut writer = ZipWriter::new_stream(out);
    let packed = packed(&mut incoming, &mut writer);
    if packed.is_err() {
        // A writer that is dropped writes its end all the same: it must not reach anybody.
        given_up.store(true, Ordering::Relaxed);
    }
    let finished = packed.and_then(|()| {
        let mut out = writer.finish().map_err(|error| failed(&error))?.into_inner();
        out.flush().map_err(|error| failed(&error))
    });
    if let Err(error) = finished {
        drop(chunks.blocking_send(Err(error)));
    }
}

fn packed(
    incoming: &mut mpsc::Receiver<Result<Piece, WorkspaceError>>,
    writer: &mut ZipWriter<StreamWriter<Out>>,
) -> Result<(), WorkspaceError> {
    loop {
        match incoming.blocking_recv() {
            Some(Ok(Piece::File(file))) => {
                let begun = writer.start_file(file.path.as_str(), options(&file));
                begun.map_err(|error| failed(&error))?;
            }
            Some(Ok(Piece::Data(data))) => writer.write_all(&data).map_err(|error| failed(&error))?,
            Some(Ok(Piece::End)) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => return Err(failed(&"its files do not come any more")),
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> WorkspaceError {
    WorkspaceError::Storage(format!("zip: {error}"))
}

fn options(file: &StoredFile) -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .unix_permissions(0o644)
        // What deflate adds to a file that cannot be packed must fit as well.
        .large_file(file.bytes >= u64::from(u32::MAX / 2))
        .last_modified_time(dos_time(file.modified).unwrap_or_default())
}

/// In UTC; nothing outside of the years a zip can tell.
fn dos_time(at: Timestamp) -> Option<DateTime> {
    let at = at.to_zoned(TimeZone::UTC);
    DateTime::from_date_and_time(
        u16::try_from(at.year()).ok()?,
        u8::try_from(at.month()).ok()?,
        u8::try_from(at.day()).ok()?,
        u8::try_from(at.hour()).ok()?,
        u8::try_from(at.minute()).ok()?,
        u8::try_from(at.second()).ok()?,
    )
    .ok()
}

/// Where the zip goes.
struct Out {
    chunks: Chunks,
    buffer: Vec<u8>,
    /// Whatever is written from now on is dropped.
    given_up: Arc<AtomicBool>,
}

impl Write for Out {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.given_up.load(Ordering::Relaxed) {
            return Ok(data.len());
        }
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() || self.given_up.load(Ordering::Relaxed) {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let sent = self.chunks.blocking_send(Ok(full.into()));
        sent.map_err(|_| {
            self.given_up.store(true, Ordering::Relaxed);
            io::Error::from(io::ErrorKind::BrokenPipe)
        })
    }
}
