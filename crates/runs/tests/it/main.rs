//! Tests of the Postgres side against a real server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing preparation fails the test"
)]

mod access;
mod budgets;
mod claims;
mod commands;
mod create;
mod effects;
mod interrupts;
mod migrations;
mod nul;
mod reading;
mod recordings;
mod redaction;
mod reprojection;
mod retention;
mod runtime;
mod steps;
mod support;
mod sweeps;
mod tenancy;

mod tls;
mod transitions;
mod workers;
