//! The vendors' clients against a local model server that checks every request as the vendors would.

#![expect(clippy::unwrap_used, reason = "a test's set-up fails loudly")]

mod faults;
mod layers;
mod matrix;
mod setup;
mod streams;
