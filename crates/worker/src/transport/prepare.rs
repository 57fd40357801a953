//! The input of a call: which files there are, and archives that hold them.

use super::index::{Index, KnownPack};
use super::{Keys, MAX_FILES, Transport};
use crate::workspace::{Object, fit_directory};
use agent::ports::{SandboxError, SandboxRequest, WorkspaceError};
use std::collections::{BTreeMap, HashMap, HashSet};
use toolbox::tree;
use toolbox::wire::File;

/// A workspace that a pod can fetch.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(super) spec_hash: String,
    pub(super) files: BTreeMap<String, File>,
    /// By hash.
    pub(super) packs: BTreeMap<String, KnownPack>,
}

impl Prepared {
    /// Files of the workspace.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Transport {
    /// Brings the archives up to date. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] without a store, [`SandboxError::Workspace`] for limits, for paths that no directory can
    /// hold, and for the store's failures.
    pub async fn prepare(&self, request: &SandboxRequest, spec_hash: &str) -> Result<Prepared, SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        let objects = store.list(&keys.run).await?;
        let files = self.visible(&keys, &objects)?;
        let stored: HashMap<&str, u64> = objects
            .iter()
            .filter_map(|object| Some((object.key.strip_prefix(&keys.run)?, object.size)))
            .collect();
        let index_key = keys.index();
        let before = if objects.iter().any(|object| object.key == index_key) {
            Index::load(store, &keys).await?
        } else {
            Index::default()
        };
        let mut index = before.clone();
        index.keep(&files, &stored);
        index.tidy();
        let names: HashSet<String> = files.keys().cloned().collect();
        let unknown = files
            .into_iter()
            .filter(|(path, _)| !index.files.contains_key(path));
        let unmarked = self
            .pack_files(store, &keys, unknown.collect(), &mut index)
            .await?;
        if index != before {
            index.save(store, &keys).await?;
            let garbage = index.garbage(&keys, &objects);
            store.delete(&garbage).await?;
        }
        let known = index.files.into_iter().filter(|(path, _)| names.contains(path));
        let known: BTreeMap<String, _> = known.chain(unmarked).collect();
        let needed: HashSet<&str> = known.values().map(|known| known.pack.as_str()).collect();
        let mut packs = index.packs;
        packs.retain(|sha256, _| needed.contains(sha256.as_str()));
        Ok(Prepared {
            spec_hash: spec_hash.to_owned(),
            packs,
            files: known
                .into_iter()
                .map(|(path, known)| (path, known.file))
                .collect(),
        })
    }

    /// The files of the run, if a directory can hold them all.
    fn visible(&self, keys: &Keys, objects: &[Object]) -> Result<BTreeMap<String, Object>, WorkspaceError> {
        let visible = objects
            .iter()
            .filter_map(|object| Some((keys.visible(object)?, object.clone())));
        let files: BTreeMap<String, Object> = visible.collect();
        let total: u64 = files.values().map(|object| object.size).sum();
        if total > self.limits.total || files.len() > MAX_FILES {
            return Err(WorkspaceError::LimitExceeded);
        }
        fit_directory(files.keys().map(String::as_str))?;
        match files.keys().find(|path| !tree::is_path(path)) {
            Some(path) => Err(WorkspaceError::InvalidPath(path.clone())),
            None => Ok(files),
        }
    }
}
