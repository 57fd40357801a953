//! What a program may use.

use agent::ports::Program;
use std::time::Duration;
use toolbox::confine;
use tools::launch::Size;

const MIB: u64 = 1024 * 1024;
/// CPU time beyond the time limit, so that the clock decides and not this.
const CPU_SLACK_SECONDS: u64 = 5;
/// A drive ends before, one way or another.
const LASTING_CPU_SECONDS: u64 = 24 * 60 * 60;
/// Open files of one process.
const OPEN_FILES: u64 = 1024;
/// Largest single file.
const FILE_BYTES: u64 = 1024 * MIB;
/// Size of `/tmp`; it counts as memory.
pub(super) const TMP_BYTES: u64 = 256 * MIB;
/// Size of `/dev/shm`.
pub(super) const SHM_BYTES: u64 = 64 * MIB;

/// Limits of one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Of all processes together, and of each one's own data.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    cpu_seconds: u64,
}

impl Limits {
    pub(super) fn of(program: &Program, timeout: Duration) -> Self {
        let (memory_bytes, processes) = match program {
            Program::Shell { .. } => (512 * MIB, 64),
            Program::Code { .. } => (1024 * MIB, 128),
        };
        Self {
            memory_bytes,
            processes,
            cpu_seconds: timeout.as_secs() + CPU_SLACK_SECONDS,
        }
    }

    /// Of a program that lives as long as the drive of a run.
    pub(super) fn lasting(size: Size) -> Self {
        let (memory_bytes, processes) = match size {
            Size::Browser => (3 * 1024 * MIB, 1024),
            Size::Server => (1024 * MIB, 256),
        };
        Self {
            memory_bytes,
            processes,
            cpu_seconds: LASTING_CPU_SECONDS,
        }
    }

    /// Set inside the namespaces: there processes are counted per sandbox.
    pub(super) fn of_each_process(&self) -> confine::Limits {
        confine::Limits {
            data_bytes: Some(self.memory_bytes),
            processes: Some(self.processes),
            cpu_seconds: Some(self.cpu_seconds),
            file_bytes: Some(FILE_BYTES),
            open_files: Some(OPEN_FILES),
        }
    }
}
