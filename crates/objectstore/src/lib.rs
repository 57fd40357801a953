//! An S3-compatible object store in one directory, for one machine: development, tests and `agentctl up`.
//!
//! The S3 protocol (signatures, presigned URLs, framing, XML) is the crate `s3s`; this crate keeps the data.
//!
//! Layout of the directory: `lock` (one process at a time), `journal` (one JSON record per change, appended and
//! synced), `blobs/<uuid>` (immutable contents), `incoming/<uuid>` (uploads not yet accepted).
//!
//! Invariants:
//! - A content is in `blobs/`, synced, before the record that names it is appended; a change is answered with
//!   success only after its record is synced. So kill -9 and power loss keep every acknowledged change.
//! - Checksums and lengths are verified before the record is appended: a refused upload is never visible.
//! - Conditions (`If-Match`, `If-None-Match`) are decided under the lock that appends: of many writers one wins.
//! - Keys are data only and never become file names.

mod blobs;
mod error;
mod index;
mod journal;
mod ops;
mod record;
mod server;
mod service;
mod store;
mod upload;

pub use error::StoreError;
pub use server::{Credentials, ServerHandle, serve};
pub use store::Store;
