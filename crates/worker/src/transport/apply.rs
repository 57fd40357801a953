//! A delta, from the archive of a pod to the run's files.
//!
//! The archive is read twice: once to check it whole, once to apply it. In between it may be changed by nobody but its Job,
//! which has ended; each content is checked again by its hash.

use super::pipe::{Pipe, pipe};
use super::{Keys, storage};
use crate::workspace::{Objects, WorkspacePath};
use agent::ports::{SandboxError, WorkspaceError};
use bytes::Bytes;
use domain::breakage::{CrashPoint, crash_at};
use futures::{StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use toolbox::pack::{PackError, Packed, Sink, Wanted, unpack};
use toolbox::wire::{Delta, File};

/// Writes at a time.
const CONCURRENCY: usize = 64;
/// Contents between the archive and the store, together.
const BUDGET_KIB: u32 = 64 * 1024;
const KIB: u64 = 1024;
const QUEUE: usize = 64;
/// In an archive, beside the content of a member: its header and what fills its last block up.
const MEMBER_BYTES: u64 = 1024;
/// Beside the members: the archive's end, and that of the compression.
const END_BYTES: u64 = 64 * KIB;

/// Files by content, and whether each is a program.
type Places = HashMap<String, Vec<(String, bool)>>;

/// A delta in the store.
pub(super) struct Archive<'a> {
    pub store: &'a Objects,
    pub keys: &'a Keys,
    pub key: String,
    pub delta: &'a Delta,
}

/// One content on its way, with its share of the budget.
type Unpacked = (String, Bytes, OwnedSemaphorePermit);

/// Takes exactly the contents that the record names.
struct Contents {
    sizes: HashMap<String, u64>,
    seen: HashSet<String>,
    /// Nothing: only checked.
    out: Option<(Sender<Unpacked>, Arc<Semaphore>)>,
}

impl Sink for Contents {
    fn wants(&self, sha256: &str) -> Wanted {
        self.sizes.get(sha256).copied().map_or(Wanted::No, Wanted::Yes)
    }

    fn take(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError> {
        self.seen.insert(sha256.to_owned());
        let Some((out, budget)) = &self.out else {
            std::io::copy(content, &mut std::io::sink())?;
            return Ok(());
        };
        let size = self.sizes.get(sha256).copied().unwrap_or_default();
        let share = u32::try_from(size / KIB + 1)
            .unwrap_or(BUDGET_KIB)
            .min(BUDGET_KIB);
        let permit = tokio::runtime::Handle::current().block_on(budget.clone().acquire_many_owned(share));
        let permit = permit.map_err(std::io::Error::other)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        content.read_to_end(&mut bytes)?;
        let sent = out.blocking_send((sha256.to_owned(), Bytes::from(bytes), permit));
        sent.map_err(|_| std::io::Error::other("nobody takes the contents any more").into())
    }
}

impl Archive<'_> {
    fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.delta.added.iter().chain(&self.delta.changed)
    }

    fn announced(&self) -> Packed {
        Packed {
            sha256: self.delta.sha256.clone(),
            bytes: self.delta.bytes,
            unpacked_bytes: self.delta.unpacked_bytes,
        }
    }

    /// Reads all of it.
    async fn read(&self, out: Option<(Sender<Unpacked>, Arc<Semaphore>)>) -> Result<(), SandboxError> {
        let (source, reader) = pipe();
        let (announced, sizes) = (
            self.announced(),
            self.files().map(|(_, file)| (file.sha256.clone(), file.bytes)),
        );
        let contents = Contents {
            sizes: sizes.collect(),
            seen: HashSet::new(),
            out,
        };
        let unpacking = tokio::task::spawn_blocking(move || unpack_all(reader, &announced, contents));
        let fed = source.feed(self.store, &self.key, self.delta.bytes);
        let (fed, unpacked) = tokio::join!(fed, unpacking);
        fed?;
        unpacked
            .map_err(|error| SandboxError::Failed(format!("unpacking ended early: {error}")))?
            .map_err(storage)
    }

    /// Checks all of it; nothing is applied.
    ///
    /// # Errors
    /// An archive that is not what the record says.
    pub(super) async fn check(&self) -> Result<(), SandboxError> {
        // What swells behind its files would keep a thread busy for as long as it likes.
        let most = self.most();
        if self.delta.unpacked_bytes > most || self.delta.bytes > most {
            return Err(storage("the archive of the delta is larger than its files"));
        }
        self.read(None).await
    }

    /// Bytes that an archive of these contents has at most, compressed or not: what cannot be compressed grows by less than a
    /// hundredth.
    fn most(&self) -> u64 {
        let contents: HashMap<&str, u64> = self
            .files()
            .map(|(_, file)| (file.sha256.as_str(), file.bytes))
            .collect();
        let members = contents.values().fold(END_BYTES, |sum, bytes| {
            sum.saturating_add(*bytes).saturating_add(MEMBER_BYTES)
        });
        members.saturating_add(members / 100)
    }

    /// Stores every file; gives back the store's mark of each, where it has one.
    pub(super) async fn apply(&self) -> Result<HashMap<String, String>, SandboxError> {
        let mut places = Places::new();
        for (path, file) in self.files() {
            let place = (path.clone(), file.mode & 0o100 != 0);
            places.entry(file.sha256.clone()).or_default().push(place);
        }
        let (sender, contents) = channel(QUEUE);
        let budget = Arc::new(Semaphore::new(BUDGET_KIB as usize));
        let (read, marks) = tokio::join!(self.read(Some((sender, budget))), self.put_all(contents, &places));
        // The store's own failure says more than the reader's, which only lost its listener.
        let marks = marks?;
        read?;
        Ok(marks)
    }

    async fn put_all(
        &self,
        mut contents: Receiver<Unpacked>,
        places: &Places,
    ) -> Result<HashMap<String, String>, WorkspaceError> {
        let stream = futures::stream::poll_fn(move |context| contents.poll_recv(context));
        let puts = stream.map(|(sha256, content, permit)| async move {
            let mut marks = vec![];
            for (path, executable) in places.get(&sha256).into_iter().flatten() {
                let mime_type = WorkspacePath::parse(path)?.mime_type();
                let key = self.keys.at(path);
                let form = (mime_type.as_str(), *executable);
                let mark = self.store.put_file(&key, content.clone(), form).await?;
                marks.extend(mark.map(|mark| (path.clone(), mark)));
                crash_at(CrashPoint::DuringApply);
            }
            drop(permit);
            Ok::<_, WorkspaceError>(marks)
        });
        let marks: Vec<Vec<(String, String)>> = puts.buffer_unordered(CONCURRENCY).try_collect().await?;
        Ok(marks.into_iter().flatten().collect())
    }
}

fn unpack_all(reader: Pipe, announced: &Packed, mut contents: Contents) -> Result<(), PackError> {
    unpack(reader, announced, &mut contents)?;
    match contents
        .sizes
        .keys()
        .find(|sha256| !contents.seen.contains(*sha256))
    {
        Some(sha256) => Err(PackError::Hostile(format!("{sha256} is not in it"))),
        None => Ok(()),
    }
}
