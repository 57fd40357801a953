//! Limits of single processes, which they cannot raise again.

use super::ConfineError;
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

/// Nothing: not limited here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Data of each process. Not address space, of which some runtimes reserve much without using it.
    pub data_bytes: Option<u64>,
    /// Processes and threads of this user in this user namespace. Without a namespace of its own that is the whole machine:
    /// leave it out there.
    pub processes: Option<u64>,
    /// Processor time of each process.
    pub cpu_seconds: Option<u64>,
    /// Largest single file.
    pub file_bytes: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
}

impl Limits {
    pub(super) fn apply(&self) -> Result<(), ConfineError> {
        let all = [
            ("data", Resource::RLIMIT_DATA, self.data_bytes),
            ("processes", Resource::RLIMIT_NPROC, self.processes),
            ("processor time", Resource::RLIMIT_CPU, self.cpu_seconds),
            ("file size", Resource::RLIMIT_FSIZE, self.file_bytes),
            ("open files", Resource::RLIMIT_NOFILE, self.open_files),
            // A core file would be a copy of memory that nobody asked for.
            ("core files", Resource::RLIMIT_CORE, Some(0)),
        ];
        for (what, resource, value) in all {
            if let Some(value) = value {
                setrlimit(resource, value, value).map_err(|errno| ConfineError::Limit { what, errno })?;
            }
        }
        Ok(())
    }
}
