//! The HTTP edge of the runtime: `agent-api`, as a library so that other programs can run it in-process.
//!
//! | module | owns |
//! | --- | --- |
//! | [`config`] | settings |
//! | [`program`] | command line |
//! | [`commands`], [`keys()`] | subcommands |
//! | `app`, `startup` | build, serve, drain |
//! | `edge`, `drain`, `error`, `extract`, `fields`, `cors`, `quota`, `conditional` | what holds for every request |
//! | `auth` | who is asking |
//! | [`openapi`] | the description of the public routes |
//! | `routes` | the public routes; `routes::runtime` the internal ones |
//! | `delivery` | what follows a commit |
//! | [`stream`] | live streams |
//! | `health` | readiness |
//! | [`contract`], [`smoke`] | commands that check the internal surface |
//! | `purse` | who may pay for a new run |
//! | `waiting` | why a run in line waits |
//!
//! Invariants: every answer of 4xx or 5xx has the one documented shape; a run of somebody else is an unknown one; what
//! an answer tells is committed; Redis being away delays an answer by a quarter of a second at most and fails none.

pub mod app;
pub mod auth;
pub mod commands;
pub mod conditional;
pub mod config;
pub mod contract;
pub mod cors;
pub mod delivery;
pub mod drain;
pub mod edge;
pub mod error;
pub mod extract;
pub mod fields;
pub mod health;
pub mod keys;
pub mod openapi;
pub mod ports;
pub mod program;
pub mod purse;
pub mod quota;
pub mod routes;
pub mod smoke;
pub mod startup;
pub mod state;
pub mod stream;
pub mod waiting;

pub use app::{Server, run};
pub use config::{Cli, Command, Options};
pub use keys::{keys, migrate};
pub use startup::StartError;
