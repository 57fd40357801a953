//! The inside of a run: planner, supervisor (a machine without IO), driver, tool router.
//!
//! This crate does no IO of its own. Everything outside is reached through the ports of [`ports`]; the worker
//! brings the adapters. The supervisor never awaits.

pub mod ports;
