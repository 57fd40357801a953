//! Dev-only: what the tests of all crates stand on. Real servers, real wires, real faults.
//!
//! Invariants:
//! - A missing server binary fails the test with the line that installs it; nothing is skipped.
//! - Every server is private (own port, own directory) and cannot outlive the test process, even if that
//!   is killed with SIGKILL.
//! - Ready means asked: a `start` returns when the very process it started has answered.

mod background;
mod dir;
mod guard;
mod model;
mod poll;
mod port;
mod postgres;
mod process;
mod proxy;
mod redis;
mod sse;
mod token;

pub use model::{Answer, ModelServer, Recorded, Wire};
pub use poll::{eventually, eventually_some};
pub use port::free_port;
pub use postgres::Postgres;
pub use process::{Process, Program, bin};
pub use proxy::FaultProxy;
pub use redis::Redis;
pub use sse::{Frame, Sse};
pub use token::jwt;
