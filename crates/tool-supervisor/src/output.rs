//! What the tool prints: to a file without a name, and to the display. Read to its end, so that the tool never waits for us.

use crate::display::Display;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use toolbox::live::Channel;
use toolbox::pack::hex;
use toolbox::wire::Stream;

const CHUNK_BYTES: usize = 64 * 1024;
/// The pipe ends with the last process; this long after that it is not waited for any more.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Nothing of it can be reached by a path: the tool writes to the same directory.
fn nameless(dir: &Path, name: &str) -> io::Result<File> {
    let path = dir.join(name);
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// A place for a stream, made before the tool begins.
#[derive(Debug)]
pub(crate) struct Place {
    channel: Channel,
    file: File,
    limit: u64,
}

impl Place {
    pub(crate) fn new(dir: &Path, channel: Channel, limit: u64) -> io::Result<Self> {
        let name = format!(".agent-{}-{}", channel.as_str(), std::process::id());
        Ok(Self {
            channel,
            file: nameless(dir, &name)?,
            limit,
        })
    }

    /// Begins to read.
    pub(crate) fn capture(self, pipe: impl Read + Send + 'static, display: Display) -> io::Result<Capture> {
        let kept = Arc::new(Mutex::new(Kept {
            written: 0,
            stored: 0,
            hasher: Sha256::new(),
        }));
        let (ended, reader) = channel();
        let file = self.file.try_clone()?;
        let shared = kept.clone();
        std::thread::Builder::new()
            .name(self.channel.as_str().to_owned())
            .spawn(move || {
                pump(pipe, self, display, &shared);
                drop(ended);
            })?;
        Ok(Capture { file, kept, reader })
    }
}

#[derive(Debug)]
struct Kept {
    written: u64,
    stored: u64,
    hasher: Sha256,
}

/// A stream being read.
#[derive(Debug)]
pub(crate) struct Capture {
    file: File,
    kept: Arc<Mutex<Kept>>,
    reader: Receiver<()>,
}

/// A stream as kept.
#[derive(Debug)]
pub(crate) struct Captured {
    pub stream: Stream,
    /// Bytes to upload.
    pub bytes: u64,
    file: File,
}

impl Captured {
    /// What is kept, from its start.
    pub(crate) fn open(&self) -> io::Result<impl Read + use<>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file.take(self.bytes))
    }
}

impl Capture {
    /// After the last process is gone.
    pub(crate) fn finish(self) -> Captured {
        // Nothing is ever sent: either way it is over.
        self.reader.recv_timeout(END_TIMEOUT).unwrap_or(());
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Captured {
            stream: Stream {
                bytes: kept.written,
                sha256: hex(kept.hasher.clone()),
                cut: kept.written > kept.stored,
            },
            bytes: kept.stored,
            file: self.file,
        }
    }
}

fn pump(mut pipe: impl Read, mut place: Place, mut display: Display, kept: &Mutex<Kept>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut full = false;
    loop {
        let bytes = match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => &chunk[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut state = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = state.written;
        state.written += bytes.len() as u64;
        let room = place.limit.saturating_sub(state.stored);
        let fitting = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        // A full disk cuts the output; the tool goes on.
        full = full || place.file.write_all(fitting).is_err();
        if !full {
            state.stored += fitting.len() as u64;
            state.hasher.update(fitting);
        }
        drop(state);
        display.show(place.channel, offset, bytes);
    }
}
