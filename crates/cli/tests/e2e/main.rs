//! The whole system from outside: the built programs as processes, HTTP, SSE, psql and redis-cli.
//!
//! Build the programs first: `cargo build --workspace --bins`.
#![cfg(test)]

mod approvals;
mod budgets;
mod cancelling;
mod commands;
mod effects;
mod errors;
mod files;
mod freeze;
mod happy;
mod leaving;
mod liveness;
mod losses;
mod operators;
mod queue;
mod redaction;
mod settings;
mod steering;
mod streams;
mod support;
mod takeover;
mod tools;
mod traces;
mod wire;
