//! What is in which archive: saves reading files again that a former step has packed.

use super::Keys;
use crate::workspace::{HIDDEN, Object, Objects};
use agent::ports::WorkspaceError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use toolbox::pack::Packed;
use toolbox::wire::File;

const VERSION: u32 = 1;
/// More archives with less than this are put together into one.
const SMALL_BYTES: u64 = 8 * 1024 * 1024;
const MOST_SMALL: usize = 16;
/// Dead bytes below this are never worth the work.
const FEW_DEAD_BYTES: u64 = 1024 * 1024;
/// Of tar: each member has a header of one and is filled up to the next.
const BLOCK: u64 = 512;
/// Archives that nobody needs are kept this long: a pod may still be reading them.
const KEPT_FOR: jiff::SignedDuration = jiff::SignedDuration::from_hours(3);

/// A packed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The store's mark of the content.
    pub etag: String,
    #[serde(flatten)]
    pub file: File,
    /// Hash of its archive.
    pub pack: String,
}

/// An archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownPack {
    /// Relative to the run.
    pub path: String,
    pub bytes: u64,
    pub unpacked_bytes: u64,
}

/// Everything known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    pub files: BTreeMap<String, Known>,
    pub packs: BTreeMap<String, KnownPack>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            version: VERSION,
            files: BTreeMap::new(),
            packs: BTreeMap::new(),
        }
    }
}

impl Index {
    /// Empty when there is none or it is not of our form.
    pub(super) async fn load(store: &Objects, keys: &Keys) -> Result<Self, WorkspaceError> {
        let Some(text) = store.get(&keys.index()).await? else {
            return Ok(Self::default());
        };
        let index = serde_json::from_slice::<Self>(&text).ok();
        let index = index.filter(|index| index.version == VERSION);
        if index.is_none() {
            tracing::warn!("the index of a run's archives is of another form: all files are packed again");
        }
        Ok(index.unwrap_or_default())
    }

    pub(super) async fn save(&self, store: &Objects, keys: &Keys) -> Result<(), WorkspaceError> {
        let text = serde_json::to_vec(self).map_err(|error| WorkspaceError::Storage(error.to_string()))?;
        store
            .put(&keys.index(), Bytes::from(text), "application/json")
            .await
    }

    /// Takes an archive in.
    pub(super) fn add_pack(&mut self, packed: &Packed, path: String) {
        let pack = KnownPack {
            path,
            bytes: packed.bytes,
            unpacked_bytes: packed.unpacked_bytes,
        };
        self.packs.insert(packed.sha256.clone(), pack);
    }

    /// Drops files that are gone or not the same any more, and archives that are gone from the store.
    pub(super) fn keep(&mut self, files: &BTreeMap<String, Object>, stored: &HashMap<&str, u64>) {
        self.packs
            .retain(|_, pack| stored.get(pack.path.as_str()) == Some(&pack.bytes));
        let packs = &self.packs;
        self.files.retain(|path, known| {
            let same = files.get(path).is_some_and(|object| {
                object.size == known.file.bytes && object.etag.as_deref() == Some(known.etag.as_str())
            });
            same && packs.contains_key(&known.pack)
        });
    }

    /// Drops archives that nobody needs, and those that are better put together anew: their files count as unknown then.
    pub(super) fn tidy(&mut self) {
        let live = self.live_bytes();
        let alive = |pack: &str| live.get(pack).copied().unwrap_or_default();
        let all: u64 = self.packs.values().map(|pack| pack.unpacked_bytes).sum();
        let living: u64 = live.values().sum();
        let wasteful = all.saturating_sub(living) > living.max(FEW_DEAD_BYTES);
        let is_small = |pack: &KnownPack| pack.unpacked_bytes < SMALL_BYTES;
        let many = self.packs.values().filter(|pack| is_small(pack)).count() > MOST_SMALL;
        let gone: HashSet<String> = self
            .packs
            .iter()
            .filter(|(sha256, pack)| {
                let alive = alive(sha256);
                alive == 0 || many && is_small(pack) || wasteful && alive < pack.unpacked_bytes / 2
            })
            .map(|(sha256, _)| sha256.clone())
            .collect();
        self.packs.retain(|sha256, _| !gone.contains(sha256));
        self.files.retain(|_, known| !gone.contains(&known.pack));
    }

    /// Bytes of each archive that some file still has, headers included: most files are smaller than theirs.
    fn live_bytes(&self) -> HashMap<String, u64> {
        let mut seen = HashSet::new();
        let mut live: HashMap<String, u64> = HashMap::new();
        for known in self.files.values() {
            if seen.insert((&known.pack, &known.file.sha256)) {
                *live.entry(known.pack.clone()).or_default() +=
                    known.file.bytes.next_multiple_of(BLOCK) + BLOCK;
            }
        }
        live
    }

    /// Which archive has a content.
    pub(super) fn packs_by_content(&self) -> HashMap<String, String> {
        let known = self.files.values();
        known
            .map(|known| (known.file.sha256.clone(), known.pack.clone()))
            .collect()
    }

    /// Archives in the store that are old and in no index; measured against the newest object, not our clock.
    pub(super) fn garbage(&self, keys: &Keys, objects: &[Object]) -> Vec<String> {
        let Some(newest) = objects.iter().map(|object| object.modified).max() else {
            return vec![];
        };
        let needed: HashSet<String> = self.packs.values().map(|pack| keys.at(&pack.path)).collect();
        let ours = keys.at(&format!("{HIDDEN}/"));
        let old = objects.iter().filter(|object| {
            let is_pack = object.key.starts_with(&ours) && object.key.ends_with(".tar.zst");
            is_pack && !needed.contains(&object.key) && newest.duration_since(object.modified) > KEPT_FOR
        });
        old.map(|object| object.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(content: &str, bytes: u64, pack: &str) -> Known {
        Known {
            etag: content.to_owned(),
            file: File {
                sha256: content.to_owned(),
                bytes,
                mode: 0o600,
            },
            pack: pack.to_owned(),
        }
    }

    fn pack(bytes: u64) -> KnownPack {
        KnownPack {
            path: "x".to_owned(),
            bytes,
            unpacked_bytes: bytes,
        }
    }

    fn left(index: &Index) -> (Vec<&str>, Vec<&str>) {
        (
            index.files.keys().map(String::as_str).collect(),
            index.packs.keys().map(String::as_str).collect(),
        )
    }

    #[test]
    fn archives_without_files_go_and_mostly_dead_ones_are_packed_anew() {
        const MIB: u64 = 1024 * 1024;
        let mut index = Index::default();
        index.packs.insert("dead".to_owned(), pack(MIB));
        index.packs.insert("half".to_owned(), pack(100 * MIB));
        index.packs.insert("full".to_owned(), pack(50 * MIB));
        index.files.insert("a".to_owned(), known("1", 10 * MIB, "half"));
        index.files.insert("b".to_owned(), known("2", 50 * MIB, "full"));
        index.tidy();
        assert_eq!(left(&index), (vec!["b"], vec!["full"]));
    }

    #[test]
    fn an_empty_file_keeps_its_archive() {
        let mut index = Index::default();
        index.packs.insert("small".to_owned(), pack(2048));
        index.files.insert("empty".to_owned(), known("1", 0, "small"));
        index.tidy();
        assert_eq!(left(&index), (vec!["empty"], vec!["small"]));
    }

    #[test]
    fn headers_of_small_files_are_no_waste() {
        let mut index = Index::default();
        index.packs.insert("pack".to_owned(), pack(20_000 * 2 * BLOCK));
        for number in 0..20_000 {
            let name = number.to_string();
            index.files.insert(name.clone(), known(&name, 12, "pack"));
        }
        let before = index.clone();
        index.tidy();
        assert_eq!(index, before);
    }

    #[test]
    fn too_many_small_archives_become_one() {
        let mut index = Index::default();
        for number in 0..=MOST_SMALL {
            let name = format!("{number:02}");
            index.packs.insert(name.clone(), pack(2048));
            index.files.insert(name.clone(), known(&name, 1000, &name));
        }
        index.packs.insert("large".to_owned(), pack(SMALL_BYTES));
        index
            .files
            .insert("large".to_owned(), known("l", SMALL_BYTES, "large"));
        index.tidy();
        assert_eq!(left(&index), (vec!["large"], vec!["large"]));
    }
}
