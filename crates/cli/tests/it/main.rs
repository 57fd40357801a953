//! `agentctl` against a real system that it started itself: what happens when processes die, connections are cut,
//! or it is called twice. The ordinary way from start to end is in `tests/e2e`.
#![cfg(test)]

mod demo;
mod follow;
mod home;
mod up;
