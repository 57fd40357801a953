//! Dev-only: faults from a seeded schedule against the real programs under load, and an independent checker.
//!
//! | module | is |
//! | --- | --- |
//! | [`system`] | programs and stores, a fault proxy on each link |
#![recursion_limit = "256"]

pub mod system;
