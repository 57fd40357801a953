//! The internal surface from outside: a real process over TCP, with real Postgres and Redis.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod bearer;
mod contract;
mod health;
mod metrics;
mod modes;
mod service;
mod signature;
mod smoke;
