//! Putting files of the store into archives.

use super::index::{Index, Known};
use super::{Keys, Transport, busy, storage};
use crate::workspace::{HIDDEN, Object, Objects};
use agent::ports::{SandboxError, WorkspaceError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use toolbox::pack::{PackError, Packed, Packer};
use toolbox::wire::File;

/// Contents of one archive: it is put together in memory.
const PACK_BYTES: u64 = 32 * 1024 * 1024;
/// Reads at a time.
const CONCURRENCY: usize = 64;
const MIME_TYPE: &str = "application/zstd";
/// Of a file that is no program, and of one that is.
const PLAIN_MODE: u32 = 0o600;
const PROGRAM_MODE: u32 = 0o700;

/// A file as read.
struct Read {
    path: String,
    etag: Option<String>,
    sha256: String,
    content: Bytes,
    executable: bool,
}

/// Cuts a list so that each part has at most [`PACK_BYTES`], or one file.
fn groups(files: Vec<(String, Object)>) -> Vec<Vec<(String, Object)>> {
    let (mut groups, mut group, mut bytes) = (vec![], vec![], 0);
    for (path, object) in files {
        if !group.is_empty() && bytes + object.size > PACK_BYTES {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += object.size;
        group.push((path, object));
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

impl Transport {
    /// Packs the files and notes them in the index; those deleted meanwhile are left out. Gives back what the index cannot
    /// hold: files that the store gives no mark for.
    pub(super) async fn pack_files(
        &self,
        store: &Objects,
        keys: &Keys,
        files: Vec<(String, Object)>,
        index: &mut Index,
    ) -> Result<Vec<(String, Known)>, SandboxError> {
        let mut unmarked = vec![];
        let mut packs = index.packs_by_content();
        for group in groups(files) {
            let permit = self.packing.acquire().await;
            let _permit = permit.map_err(|error| SandboxError::Failed(error.to_string()))?;
            let read = read_all(store, keys, group).await?;
            let (told, fresh) = tell(read, &packs);
            if !fresh.is_empty() {
                let contents: Vec<String> = fresh.iter().map(|(sha256, _)| sha256.clone()).collect();
                let (archive, packed) = busy(move || pack(fresh)).await?.map_err(storage)?;
                let path = format!("{HIDDEN}/packs/{}.tar.zst", packed.sha256);
                store
                    .put(&keys.at(&path), Bytes::from(archive), MIME_TYPE)
                    .await?;
                packs.extend(contents.into_iter().map(|sha256| (sha256, packed.sha256.clone())));
                index.add_pack(&packed, path);
            }
            for (path, etag, file) in told {
                let pack = packs.get(&file.sha256).cloned().unwrap_or_default();
                let known = Known {
                    etag: etag.clone().unwrap_or_default(),
                    file,
                    pack,
                };
                match etag {
                    Some(_) => drop(index.files.insert(path, known)),
                    None => unmarked.push((path, known)),
                }
            }
        }
        Ok(unmarked)
    }
}

async fn read_all(
    store: &Objects,
    keys: &Keys,
    group: Vec<(String, Object)>,
) -> Result<Vec<Read>, WorkspaceError> {
    let key = |path: &str| keys.at(path);
    let reads = group.into_iter().map(|(path, object)| {
        let key = key(&path);
        async move {
            let file = store.get_file(&key).await?;
            Ok::<_, WorkspaceError>(file.map(|(content, executable)| Read {
                // Written again after it was listed: what it is now, nobody can tell by the old mark.
                etag: object.etag.filter(|_| content.len() as u64 == object.size),
                sha256: format!("{:x}", Sha256::digest(&content)),
                path,
                content,
                executable,
            }))
        }
    });
    let read: Vec<Option<Read>> = futures::stream::iter(reads)
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

type Told = Vec<(String, Option<String>, File)>;

/// Parts names and contents; contents that are packed already are left out.
fn tell(read: Vec<Read>, packs: &HashMap<String, String>) -> (Told, Vec<(String, Bytes)>) {
    let (mut told, mut fresh, mut seen) = (vec![], vec![], HashSet::new());
    for one in read {
        let file = File {
            sha256: one.sha256.clone(),
            bytes: one.content.len() as u64,
            mode: if one.executable { PROGRAM_MODE } else { PLAIN_MODE },
        };
        told.push((one.path, one.etag, file));
        if !packs.contains_key(&one.sha256) && seen.insert(one.sha256.clone()) {
            fresh.push((one.sha256, one.content));
        }
    }
    (told, fresh)
}

fn pack(contents: Vec<(String, Bytes)>) -> Result<(Vec<u8>, Packed), PackError> {
    let mut packer = Packer::new(vec![])?;
    for (sha256, content) in contents {
        packer.add(&sha256, content.len() as u64, content.as_ref())?;
    }
    packer.finish()
}
