//! `agent-api` as a process, over real TCP, with real Postgres and Redis.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod actions;
mod auth;
mod budgets;
mod commands;
mod creating;
mod errors;
mod files;
mod harness;
mod internal;
mod interrupts;
mod jwks;
mod keys;
mod limits;
mod openapi;
mod process;
mod recorded;
mod streams;
mod streams_faults;
mod streams_many;
mod tenancy;
mod tickets;
mod two_surfaces;
