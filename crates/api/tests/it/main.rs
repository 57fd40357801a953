//! `agent-api` as a process, over real TCP, with real Postgres and Redis.

mod actions;
mod errors;
mod harness;
mod internal;
mod keys;
mod process;
mod streams;
mod streams_faults;
