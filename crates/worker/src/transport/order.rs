//! The order for one Job's supervisor.

use super::{DELTA, Keys, Prepared, RECORD, STARTED, STDERR, STDOUT, Transport, is_uid, storage};
use agent::ports::{Program, SandboxError, SandboxRequest};
use bytes::Bytes;
use std::time::Duration;
use toolbox::wire::{self, Manifest, Order, Pack, PutUrls, VERSION};

/// A Secret holds 1 MiB; longer programs go with the manifest.
const PROGRAM_BYTES: usize = 512 * 1024;

fn program(program: &Program) -> wire::Program {
    match program.clone() {
        Program::Shell { command } => wire::Program::Shell { command },
        Program::Code { language, code } => wire::Program::Code { language, code },
    }
}

fn text_bytes(program: &Program) -> usize {
    match program {
        Program::Shell { command } => command.len(),
        Program::Code { code, .. } => code.len(),
    }
}

impl Transport {
    /// Stores the manifest and signs the URLs, all valid for `valid_for` from now. May be asked for again with the same uid:
    /// URLs of before stay valid for their time.
    ///
    /// # Errors
    /// As in [`Transport::prepare`].
    pub async fn order(
        &self,
        prepared: &Prepared,
        request: &SandboxRequest,
        job_uid: &str,
        valid_for: Duration,
    ) -> Result<Order, SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        if !is_uid(job_uid) {
            return Err(SandboxError::Failed(format!("{job_uid:?} is no uid of a Job")));
        }
        let is_long = text_bytes(&request.program) > PROGRAM_BYTES;
        let (for_order, for_manifest) = match program(&request.program) {
            program if is_long => (None, Some(program)),
            program => (Some(program), None),
        };
        let mut manifest = Manifest {
            version: VERSION,
            program: for_manifest,
            packs: vec![],
            files: prepared.files.clone(),
        };
        for (sha256, pack) in &prepared.packs {
            manifest.packs.push(Pack {
                sha256: sha256.clone(),
                bytes: pack.bytes,
                unpacked_bytes: pack.unpacked_bytes,
                url: store.sign_get(&keys.at(&pack.path), valid_for).await?,
            });
        }
        let text = serde_json::to_vec(&manifest).map_err(storage)?;
        let key = keys.manifest(request.step_id);
        store.put(&key, Bytes::from(text), "application/json").await?;
        let of = |name: &str| keys.of_job(request.step_id, job_uid, name);
        Ok(Order {
            version: VERSION,
            spec_hash: prepared.spec_hash.clone(),
            job_uid: job_uid.to_owned(),
            program: for_order,
            working_dir: request.working_dir.clone(),
            timeout_ms: request.timeout.as_millis() as u64,
            manifest_url: store.sign_get(&key, valid_for).await?,
            mark_url: store.sign_get(&of(STARTED), valid_for).await?,
            put: PutUrls {
                started: store.sign_put(&of(STARTED), valid_for, true).await?,
                stdout: store.sign_put(&of(STDOUT), valid_for, false).await?,
                stderr: store.sign_put(&of(STDERR), valid_for, false).await?,
                delta: store.sign_put(&of(DELTA), valid_for, false).await?,
                record: store.sign_put(&of(RECORD), valid_for, false).await?,
            },
            limits: self.limits(),
            ca_pem: self.authorities.clone(),
        })
    }
}
