//! What a program may use.

use agent::ports::Program;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// CPU time beyond the time limit, so that the clock decides and not this.
const CPU_SLACK_SECONDS: u64 = 5;
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

    /// Arguments of `prlimit`, which is run inside the namespaces: there processes are counted per sandbox.
    /// Data is limited and not address space, of which some runtimes reserve much without using it.
    pub(super) fn arguments(&self) -> Vec<String> {
        [
            ("data", self.memory_bytes),
            ("nproc", self.processes),
            ("cpu", self.cpu_seconds),
            ("fsize", FILE_BYTES),
            ("nofile", OPEN_FILES),
            ("core", 0),
        ]
        .map(|(name, value)| format!("--{name}={value}:{value}"))
        .to_vec()
    }
}
