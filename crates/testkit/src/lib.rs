//! Dev-only: what the tests of all crates stand on. Real servers, real wires, real faults.
//!
//! Invariants:
//! - A missing server binary fails the test with the line that installs it; nothing is skipped.
//! - Every server is private (own port, own directory) and cannot outlive the test process, even if that
//!   is killed with SIGKILL.
//! - Ready means asked: a `start` returns when the very process it started has answered.

mod dir;
mod guard;
mod poll;
mod port;
mod postgres;
mod redis;

pub use poll::{eventually, eventually_some};
pub use port::free_port;
pub use postgres::Postgres;
pub use redis::Redis;
