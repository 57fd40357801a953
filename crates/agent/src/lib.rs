//! The inside of a run: planner, supervisor (a machine without IO), driver, tool router.
//!
//! This crate does no IO of its own. Everything outside is reached through the ports of [`ports`]; the worker
//! brings the adapters.
//!
//! - [`planner`] asks the model for a plan and gives a bad one back at most twice.
//! - [`supervisor`] never awaits: it says what comes next and turns what came of it into changes.
//! - [`driver`] does what the supervisor says, commits every change before it acts on it, and obeys two tokens: soft
//!   (hand back between steps) and cancel (stop the running step).
//! - [`context`] keeps the model's view of the run within its limit; [`stalls`] sees when the run repeats itself;
//!   [`replan`] changes the rest of a plan.
//! - [`tools`] validates a call, dispatches it and makes its result.
//!
//! What is stored is enough to go on after a crash: a model's reply before it is acted on, a step before it runs,
//! its result before the next thing happens.

pub mod context;
pub mod conversation;
pub mod driver;
pub mod gate;
mod limits;
pub mod memory;
pub mod parse;
pub mod planner;
pub mod ports;
pub mod purse;
pub mod replan;
pub mod snapshot;
pub mod stalls;
mod step;
pub mod supervisor;
pub mod tools;
