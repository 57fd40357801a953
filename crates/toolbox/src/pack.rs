//! Archives of contents: tar, compressed with zstd, each member named by the SHA-256 of its content.
//!
//! Invariants:
//! - Paths of files are never in an archive: a member can only be a content that was asked for by its hash.
//! - An archive is hostile until its last byte was read: hash, size, unpacked size and every member are checked, and unpacking
//!   stops at the first byte beyond what was announced.
//! - A content that was read to its end without an error is the one its name says.

use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, BufReader, Read, Write};

/// Small files compress well and fast enough at this level.
const LEVEL: i32 = 1;
/// Largest window of a decoder, as a power of two: more is never written by us, and costs memory.
const WINDOW_LOG: u32 = 23;
const BUFFER_BYTES: usize = 64 * 1024;
/// Fixed: nothing of a member but its name, size and content means anything.
const MEMBER_MODE: u32 = 0o600;

/// Why an archive was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is not what was announced; another try brings the same.
    #[error("the archive is not what it should be: {0}")]
    Hostile(String),
    /// A file changed while it was packed.
    #[error("a file changed while it was packed")]
    Changed,
    #[error("archive: {0}")]
    Io(#[from] io::Error),
}

fn hostile<T>(why: impl Into<String>) -> Result<T, PackError> {
    Err(PackError::Hostile(why.into()))
}

/// A hash as text.
pub fn hex(hasher: Sha256) -> String {
    format!("{:x}", hasher.finalize())
}

/// Copies everything; gives back hash and length.
pub fn copy_hashed(from: &mut (impl Read + ?Sized), to: &mut impl Write) -> io::Result<(String, u64)> {
    let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_BYTES]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((hex(hasher), bytes)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What an archive is announced as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 (hex) of the archive.
    pub sha256: String,
    pub bytes: u64,
    /// Of the tar archive in it.
    pub unpacked_bytes: u64,
}

/// Counts and hashes what passes.
#[derive(Debug)]
struct Meter<T> {
    inner: T,
    bytes: u64,
    hasher: Sha256,
}

impl<T> Meter<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            bytes: 0,
            hasher: Sha256::new(),
        }
    }
}

impl<W: Write> Write for Meter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.bytes += count as u64;
        self.hasher.update(&buf[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.bytes += count as u64;
        self.hasher.update(&buf[..count]);
        Ok(count)
    }
}

/// Counts what goes into the compression.
struct Counted<W: Write> {
    inner: zstd::Encoder<'static, Meter<W>>,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes an archive as a stream; the same contents in the same order make the same bytes.
pub struct Packer<W: Write> {
    tar: tar::Builder<Counted<W>>,
    members: HashSet<String>,
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}

impl<W: Write> Packer<W> {
    pub fn new(out: W) -> Result<Self, PackError> {
        let inner = zstd::Encoder::new(Meter::new(out), LEVEL)?;
        Ok(Self {
            tar: tar::Builder::new(Counted { inner, bytes: 0 }),
            members: HashSet::new(),
        })
    }

    /// Adds a content once; more of the same are left out.
    ///
    /// # Errors
    /// [`PackError::Changed`] when it is not the content that was named.
    pub fn add(&mut self, sha256: &str, bytes: u64, content: impl Read) -> Result<(), PackError> {
        if !self.members.insert(sha256.to_owned()) {
            return Ok(());
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(sha256)?;
        header.set_size(bytes);
        header.set_mode(MEMBER_MODE);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut content = Meter::new(content.take(bytes));
        self.tar.append(&header, &mut content)?;
        if content.bytes != bytes || hex(content.hasher) != sha256 {
            return Err(PackError::Changed);
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(W, Packed), PackError> {
        let counted = self.tar.into_inner()?;
        let unpacked_bytes = counted.bytes;
        let meter = counted.inner.finish()?;
        let packed = Packed {
            sha256: hex(meter.hasher),
            bytes: meter.bytes,
            unpacked_bytes,
        };
        Ok((meter.inner, packed))
    }
}

/// Reads up to a number of bytes and fails at the next one.
struct Bounded<'a, R> {
    inner: R,
    left: u64,
    exceeded: &'a Cell<bool>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        let Some(left) = self.left.checked_sub(count as u64) else {
            self.exceeded.set(true);
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        self.left = left;
        Ok(count)
    }
}

/// A member's content: its end is reached only when it is what its name says.
struct Verified<'a, R> {
    inner: Meter<R>,
    sha256: &'a str,
    wrong: &'a Cell<bool>,
    ended: bool,
}

impl<R: Read> Read for Verified<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.ended {
            return Ok(0);
        }
        let count = self.inner.read(buf)?;
        if count == 0 {
            self.ended = true;
            if hex(self.inner.hasher.clone()) != self.sha256 {
                self.wrong.set(true);
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
        }
        Ok(count)
    }
}

/// What to do with a member by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Its size must be this.
    Yes(u64),
    /// It may be there, and is passed over.
    Skip,
    /// It must not be there.
    No,
}

/// Who takes the contents of an archive.
pub trait Sink {
    fn wants(&self, sha256: &str) -> Wanted;
    /// Reads a wanted content to its end; an error of `content` must be given back.
    fn take(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError>;
}

/// Unpacks an archive of `announced` form.
///
/// # Errors
/// [`PackError::Hostile`] for anything but regular members with wanted names, each once, of the announced sizes and hashes.
pub fn unpack(archive: impl Read, announced: &Packed, sink: &mut impl Sink) -> Result<(), PackError> {
    let (too_long, too_large) = (Cell::new(false), Cell::new(false));
    let mut source = BufReader::with_capacity(
        BUFFER_BYTES,
        Meter::new(Bounded {
            inner: archive,
            left: announced.bytes,
            exceeded: &too_long,
        }),
    );
    let mut decoder = zstd::Decoder::with_buffer(&mut source)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut bounded = Bounded {
        inner: decoder,
        left: announced.unpacked_bytes,
        exceeded: &too_large,
    };
    let read = members(&mut bounded, sink).and_then(|()| Ok(io::copy(&mut bounded, &mut io::sink())?));
    let left = bounded.left;
    drop(bounded);
    let read = read.and_then(|rest| {
        io::copy(&mut source, &mut io::sink())
            .map(|_| rest)
            .map_err(Into::into)
    });
    if too_long.get() {
        return hostile("longer than announced");
    }
    if too_large.get() {
        return hostile("larger than announced when unpacked");
    }
    read?;
    let meter = source.into_inner();
    if left != 0 || meter.bytes != announced.bytes {
        return hostile("shorter than announced");
    }
    if hex(meter.hasher) != announced.sha256 {
        return hostile("its hash is wrong");
    }
    Ok(())
}

fn members(tar: &mut impl Read, sink: &mut impl Sink) -> Result<(), PackError> {
    let mut seen = HashSet::new();
    let mut archive = tar::Archive::new(tar);
    // Raw: extensions of the format would be read into memory, whatever their size.
    for entry in archive.entries()?.raw(true) {
        let entry = entry?;
        let name = name(&entry)?;
        if !seen.insert(name.clone()) {
            return hostile("a member is there twice");
        }
        let wanted = sink.wants(&name);
        let size = entry.header().entry_size()?;
        match wanted {
            Wanted::No => return hostile(format!("nobody asked for {name}")),
            Wanted::Skip => continue,
            Wanted::Yes(expected) if expected != size => return hostile(format!("the size of {name}")),
            Wanted::Yes(_) => {}
        }
        let wrong = Cell::new(false);
        let mut content = Verified {
            inner: Meter::new(entry),
            sha256: &name,
            wrong: &wrong,
            ended: false,
        };
        let taken = sink.take(&name, &mut content);
        if wrong.get() {
            return hostile(format!("the content of {name}"));
        }
        taken?;
        if !content.ended && content.inner.bytes != size {
            return Err(io::Error::other("a content was not read to its end").into());
        }
    }
    Ok(())
}

fn name(entry: &tar::Entry<'_, impl Read>) -> Result<String, PackError> {
    let header = entry.header();
    if header.entry_type() != tar::EntryType::Regular {
        return hostile("a member is no regular file");
    }
    match String::from_utf8(header.path_bytes().into_owned()) {
        Ok(name) if crate::tree::is_sha256(&name) => Ok(name),
        _ => hostile("a member's name is no hash"),
    }
}

#[cfg(test)]
mod tests;
