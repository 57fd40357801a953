//! The files of runs: in S3, or in memory for tests. Both obey the same rules, which are here and not in the stores.
//!
//! Invariants:
//! - A key is always `users/{user}/runs/{run}/{path}`; only [`WorkspacePath`] makes the last part.
//! - `.agent/` below a run is ours: never read, written, listed or synced through this crate's file operations.
//! - A store's failure is an error; it is never taken for "no such file" or "no files".
//! - Limits are checked before anything is written: a refused write or sync changes nothing.
//! - A file of a name that cannot be kept does not keep the others from being stored; it is told.

mod archive;
mod fold;
mod life;
mod memory;
mod objects;
mod options;
mod path;
mod run;
mod s3;
mod sync;
mod walk;

pub use archive::zip;
pub use life::{Amount, FilePage, StoredFile, StoredRun};
pub use memory::MemoryObjects;
pub use objects::{Content, Object, Objects, Page, Workspaces};
pub use options::{S3Options, SizeLimits, StoreOptions};
pub use path::{HIDDEN, WorkspacePath, fit_directory, run_prefix};
pub use run::{RunWorkspace, sha256};
pub use s3::S3Objects;
pub use sync::{Manifest, Synced};
