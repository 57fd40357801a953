//! Finding the record of a call, and clearing away what it leaves.

use super::{DELTA, Keys, RECORD, STARTED, Transport, is_uid};
use agent::ports::{SandboxError, SandboxRequest};
use toolbox::wire::{Record, VERSION};

/// Of a delta with 100,000 long names.
const MAX_RECORD_BYTES: u64 = 64 * 1024 * 1024;

impl Transport {
    /// The newest record of this very call, whichever Job wrote it.
    ///
    /// # Errors
    /// As in [`Transport::prepare`].
    pub async fn record(
        &self,
        request: &SandboxRequest,
        spec_hash: &str,
    ) -> Result<Option<Record>, SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        let step = keys.step(request.step_id);
        let mut found: Vec<_> = store
            .list(&step)
            .await?
            .into_iter()
            .filter(|object| object.size <= MAX_RECORD_BYTES)
            .filter_map(|object| {
                let (uid, name) = object.key.strip_prefix(&step)?.split_once('/')?;
                (name == RECORD && is_uid(uid)).then(|| (object.modified, uid.to_owned(), object.key.clone()))
            })
            .collect();
        found.sort();
        while let Some((_, uid, key)) = found.pop() {
            let Some(text) = store.get(&key).await? else {
                continue;
            };
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) if record.version != VERSION || record.job_uid != uid => {
                    tracing::warn!(key, "a record is of another version or of another Job");
                }
                Ok(record) if record.spec_hash == spec_hash => return Ok(Some(record)),
                // An earlier attempt of the step that asked for something else.
                Ok(_) => {}
                Err(error) => tracing::warn!(key, %error, "a record is not of our form"),
            }
        }
        Ok(None)
    }

    /// Whether a Job's supervisor has begun its tool, or was about to.
    ///
    /// # Errors
    /// As in [`Transport::prepare`].
    pub async fn was_begun(&self, request: &SandboxRequest, job_uid: &str) -> Result<bool, SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        let key = keys.of_job(request.step_id, job_uid, STARTED);
        Ok(store.get(&key).await?.is_some())
    }

    /// Deletes what a settled step needs no more. Its delta stays: the next step's input takes it as it is.
    ///
    /// # Errors
    /// As in [`Transport::prepare`].
    pub async fn forget(&self, request: &SandboxRequest) -> Result<(), SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        let objects = store.list(&keys.step(request.step_id)).await?;
        let delta = format!("/{DELTA}");
        let gone = objects.into_iter().filter(|object| !object.key.ends_with(&delta));
        let gone: Vec<String> = gone.map(|object| object.key).collect();
        Ok(store.delete(&gone).await?)
    }
}
