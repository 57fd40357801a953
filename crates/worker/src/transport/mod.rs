//! Both ways between a run's files in the object store and a tool's pod: archives and presigned URLs in, delta and record out.
//!
//! Below `users/{user_id}/runs/{run_id}/.agent/`: `packs/index.json` (what is in which archive), `packs/{sha256}.tar.zst`,
//! `steps/{step_id}/manifest.json`, `steps/{step_id}/{job_uid}/{started,stdout,stderr,delta.tar.zst,result.json}`.
//!
//! Invariants:
//! - A pod gets URLs of single objects and no key of the store. All it may write lies in the directory of its own Job.
//! - What comes back is hostile: nothing of it is applied before all of it was checked, hashes and limits included.
//! - Applying is idempotent: after a crash in the middle it is done again from the same delta and ends the same.
//! - The index only saves work. A file counts as known only while the store's own mark of its content is the one noted.

mod apply;
mod collect;
mod index;
mod order;
mod outcome;
mod outputs;
mod packs;
mod pipe;
mod prepare;
mod record;

pub use prepare::Prepared;

use crate::sandbox::tool_name;
use crate::workspace::{HIDDEN, Object, Objects, SizeLimits, WorkspacePath, Workspaces, run_prefix};
use agent::ports::{SandboxError, SandboxRequest, WorkspaceError};
use domain::{Redactor, StepId};
use std::sync::Arc;
use tokio::sync::Semaphore;
use toolbox::wire::{Limits, RECORD_NAME};

/// Most files of a workspace.
const MAX_FILES: usize = 50_000;
/// Kept whole of each output in the store. With the workspace and its slack this stays below the pod's share of the disk.
const OUTPUT_BYTES: u64 = 256 * 1024 * 1024;
/// Archives that are put together at the same time in this process: each is in memory.
const PACKING: usize = 2;
/// Deltas that are applied at the same time: each has its share of memory and many connections.
const APPLYING: usize = 4;
/// What a store without keys lacks.
const SETTINGS: &str = "S3_ACCESS_KEY and S3_SECRET_KEY";

/// The way of files and results. Clones share the limit of memory.
#[derive(Debug, Clone)]
pub struct Transport {
    objects: Option<Objects>,
    limits: SizeLimits,
    redactor: Arc<Redactor>,
    packing: Arc<Semaphore>,
    applying: Arc<Semaphore>,
    /// PEM of authorities that a pod trusts besides those of its image.
    authorities: Option<String>,
}

impl Transport {
    /// What programs print passes the redactor before anybody sees it.
    pub fn new(workspaces: &Workspaces, redactor: Arc<Redactor>) -> Self {
        Self {
            objects: workspaces.objects().cloned(),
            limits: workspaces.limits(),
            redactor,
            packing: Arc::new(Semaphore::new(PACKING)),
            applying: Arc::new(Semaphore::new(APPLYING)),
            authorities: None,
        }
    }

    /// For a store whose certificate an image does not know.
    #[must_use]
    pub fn trusting(mut self, authorities: Option<String>) -> Self {
        self.authorities = authorities;
        self
    }

    fn store(&self, request: &SandboxRequest) -> Result<&Objects, SandboxError> {
        self.objects.as_ref().ok_or_else(|| {
            let tool = tool_name(&request.program);
            SandboxError::Unavailable(format!("{tool} is not configured: set {SETTINGS}"))
        })
    }

    fn limits(&self) -> Limits {
        Limits {
            file_bytes: self.limits.file,
            total_bytes: self.limits.total,
            files: MAX_FILES,
            output_bytes: OUTPUT_BYTES,
        }
    }
}

/// Keys of one run.
#[derive(Debug, Clone)]
struct Keys {
    /// Ends with a slash.
    run: String,
}

impl Keys {
    fn of(request: &SandboxRequest) -> Self {
        Self {
            run: run_prefix(&request.user_id, request.run_id),
        }
    }

    /// From a path relative to the run.
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.run)
    }

    fn index(&self) -> String {
        self.at(&format!("{HIDDEN}/packs/index.json"))
    }

    /// Ends with a slash.
    fn step(&self, step: StepId) -> String {
        self.at(&format!("{HIDDEN}/steps/{step}/"))
    }

    fn manifest(&self, step: StepId) -> String {
        format!("{}manifest.json", self.step(step))
    }

    fn of_job(&self, step: StepId, uid: &str, name: &str) -> String {
        format!("{}{uid}/{name}", self.step(step))
    }

    /// The path of a file that tools may see.
    fn visible(&self, object: &Object) -> Option<String> {
        let path = object.key.strip_prefix(&self.run)?;
        if path == HIDDEN
            || path
                .strip_prefix(HIDDEN)
                .is_some_and(|rest| rest.starts_with('/'))
        {
            return None;
        }
        // Directory markers (`a/`) and whatever else no tool of ours can have written.
        let parsed = WorkspacePath::parse(path).ok()?;
        (parsed.as_str() == path).then(|| path.to_owned())
    }
}

/// Names of what a Job's supervisor writes.
const STARTED: &str = "started";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
const DELTA: &str = "delta.tar.zst";
const RECORD: &str = RECORD_NAME;

fn storage(why: impl std::fmt::Display) -> SandboxError {
    SandboxError::Workspace(WorkspaceError::Storage(why.to_string()))
}

/// Job uids are part of keys: nothing that could mean another one.
fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Runs work that keeps a processor busy off the async threads.
async fn busy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SandboxError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| SandboxError::Failed(format!("work on files ended early: {error}")))
}
