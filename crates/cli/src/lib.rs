//! `agentctl`: the whole system on one machine ([`up`]) and the work with runs ([`commands`]).
//!
//! Invariants:
//! - Data goes to stdout, messages to stderr; nothing from a run reaches a terminal with its control characters.
//! - Every failure says what happened, why and what to do, and has a documented exit code ([`failure::Code`]).
//! - The API and the workers are processes of their own; this program only starts them and talks HTTP, Redis, S3.

pub mod args;
pub mod client;
pub mod commands;
pub mod console;
pub mod envfile;
pub mod failure;
pub mod objects;
pub mod place;
pub mod render;
pub mod token;
pub mod up;
