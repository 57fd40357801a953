//! What a worker and the supervisor of a tool's sandbox share: the formats between them, archives of workspaces, and the
//! confinement of the tool's process.
//!
//! Invariants:
//! - The order goes from the worker to the supervisor, the record comes back; both are versioned and name the spec hash.
//! - The record is written last, in one request: where there is one, the tool ran to its end and all it left is stored.
//! - Each side takes what comes from the other side of a sandbox as hostile: paths, sizes and hashes are checked again.

pub mod confine;
pub mod launch;
pub mod live;
pub mod pack;
pub mod relay;
pub mod tree;
pub mod wire;
