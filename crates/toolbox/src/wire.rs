//! The order of a worker, the manifest of the input, and the record of the supervisor, as JSON.
//!
//! A supervisor ends with exit code 0 when its record is stored, whatever became of the tool; else with one of [`exit`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of all three formats; another one is refused.
pub const VERSION: u32 = 1;
/// File with the [`Order`] in the directory that is mounted for the supervisor alone.
pub const ORDER_FILE: &str = "order.json";
/// Where that directory is mounted in a pod.
pub const ORDER_DIR: &str = "/run/agent-order";
/// A supervisor that is told to end (SIGTERM) has this long until it is killed: the pod's `terminationGracePeriodSeconds`.
pub const GRACE_SECONDS: u64 = 10;
/// The pod's own time limit, counted from its start, is the tool's and this much: for fetching and storing.
pub const RESERVE_SECONDS: u64 = 120;
/// Name of the record below a step's directory in the store.
pub const RECORD_NAME: &str = "result.json";
/// Where a tool sees its run's files.
pub const WORKSPACE_DIR: &str = "/workspace";

/// How a supervisor ends that stored no record.
pub mod exit {
    /// Wrong arguments, or no order that it can read.
    pub const USAGE: u8 = 64;
    /// Its own machinery failed.
    pub const INTERNAL: u8 = 70;
    /// Another start of the same Job has begun the tool.
    pub const STARTED_BEFORE: u8 = 73;
    /// The tool may have run, and its record could not be stored.
    pub const NOT_STORED: u8 = 74;
    /// The tool was not begun, and no record was stored: told to end before, or the store is away.
    pub const NOT_BEGUN: u8 = 75;
}

/// What the supervisor is to do. Holds presigned URLs: never logged, never seen by the tool.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    pub version: u32,
    /// SHA-256 (hex) of what the worker asked for; goes back in the record.
    pub spec_hash: String,
    /// The Job that runs this; part of every key that is written.
    pub job_uid: String,
    /// Nothing when it is too long for the order: then it is in the manifest.
    pub program: Option<Program>,
    /// Absolute, [`WORKSPACE_DIR`] or below.
    pub working_dir: String,
    pub timeout_ms: u64,
    /// GET of the [`Manifest`].
    pub manifest_url: String,
    /// GET of the start mark: tells our own from another's when the answer to its PUT was lost.
    pub mark_url: String,
    pub put: PutUrls,
    pub limits: Limits,
    /// PEM of an authority that the store's certificate is checked against besides the usual ones.
    pub ca_pem: Option<String>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order")
            .field("spec_hash", &self.spec_hash)
            .field("job_uid", &self.job_uid)
            .finish_non_exhaustive()
    }
}

/// One presigned PUT each.
#[derive(Clone, Serialize, Deserialize)]
pub struct PutUrls {
    /// Written before the tool starts with `If-None-Match: *` (a signed header): a second start of the same Job finds it and
    /// ends. Holds a word that this start alone knows.
    pub started: String,
    /// Whole standard output.
    pub stdout: String,
    /// Whole standard error.
    pub stderr: String,
    /// Archive of added and changed files.
    pub delta: String,
    /// The [`Record`], last.
    pub record: String,
}

impl std::fmt::Debug for PutUrls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PutUrls(..)")
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Program {
    /// The text of a command for `bash -c`, or `sh -c` where there is no bash.
    Shell { command: String },
    /// A source text in one of the languages of the tool `code`.
    Code { language: String, code: String },
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest single file.
    pub file_bytes: u64,
    /// Largest sum of all files.
    pub total_bytes: u64,
    /// Most files.
    pub files: usize,
    /// Largest file of standard output or error that is kept whole; more is counted and cut (`Stream::cut`).
    pub output_bytes: u64,
}

/// The input: every file, and the archives that hold them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// Only when it is too long for the order.
    pub program: Option<Program>,
    pub packs: Vec<Pack>,
    /// By path relative to the workspace.
    pub files: BTreeMap<String, File>,
}

/// A tar archive compressed with zstd. Its members are named by the SHA-256 (hex) of their content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// SHA-256 (hex) of the archive as stored.
    pub sha256: String,
    pub bytes: u64,
    /// Size of the tar archive in it; what unpacks to another size is refused.
    pub unpacked_bytes: u64,
    /// Presigned GET.
    pub url: String,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub sha256: String,
    pub bytes: u64,
    /// Permission bits; only the owner's are kept (`0o600`, `0o700`).
    pub mode: u32,
}

/// The commit record of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub spec_hash: String,
    pub job_uid: String,
    pub ending: Ending,
    /// A process of the tool was killed for want of memory: the main one (the tool ended by it) or a child.
    pub out_of_memory: Option<OutOfMemory>,
    pub durations: Durations,
    pub stdout: Stream,
    pub stderr: Stream,
    /// Nothing when the files could not be stored; then [`Ending::Failed`], `unkept` or `warnings` says why.
    pub delta: Option<Delta>,
    pub warnings: Vec<String>,
    /// The tool ran, and some of its files (those that `delta` lacks) or all of them are not kept: why, in the words of file
    /// tools.
    #[serde(default)]
    pub unkept: Option<String>,
}

/// How the tool ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ending {
    Exited {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
    /// At the tool's own time limit.
    TimedOut,
    /// Told to stop before its end (SIGTERM to the supervisor).
    Cancelled,
    /// The tool was not run, or its end is not known.
    Failed {
        class: FailureClass,
        message: String,
    },
}

/// Why a supervisor could not do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The files could not be fetched, are too many or too large, or are not what the manifest says.
    Workspace,
    /// The image lacks the interpreter; the working directory is not there (`working_dir X does not exist`).
    Configuration,
    /// The confinement is not to be had on this node.
    Confinement,
    Internal,
}

/// Which process ran out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfMemory {
    Main,
    Child,
}

/// In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Durations {
    pub fetch_ms: u64,
    pub run_ms: u64,
    pub upload_ms: u64,
}

/// One of the two output streams, as uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Bytes the tool wrote.
    pub bytes: u64,
    /// SHA-256 (hex) of what was uploaded.
    pub sha256: String,
    /// More was written than is kept.
    pub cut: bool,
}

/// What became of the files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delta {
    /// SHA-256 (hex) and size of the archive as uploaded; members are named by the SHA-256 of their content.
    pub sha256: String,
    /// Nothing was stored when this is 0: no content is new.
    pub bytes: u64,
    /// Size of the tar archive in it.
    pub unpacked_bytes: u64,
    pub added: BTreeMap<String, File>,
    pub changed: BTreeMap<String, File>,
    pub deleted: Vec<String>,
}
