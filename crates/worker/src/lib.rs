//! The worker process: from a job in Redis to a finished run in Postgres.
//!
//! | module | owns |
//! | --- | --- |
//! | [`intake`], [`watchdog`] | permit, claim, task; ending when none of it moves |
//! | [`job_processor`], [`settle`] | one job from claim to settlement |
//! | [`log`], [`live`] | the agent's run log over the authority, fenced by the claim's epoch; output of running tools |
//! | [`lease`], [`held`], [`obey`] | renewal from a thread of its own, cancellation of what is lost or stopped |
//! | [`upkeep`], [`reconcile`], [`retention`] | sweeps, outbox relay, reconciler, time limits, files past their time |
//! | [`model`], [`workspace`], [`sandbox`], [`remote`], [`counting`] | adapters of the agent's ports |
//! | [`transport`] | files and results on their way to and from a tool's pod |
//! | [`health`], [`check`] | what operators and probes ask |
//! | [`config`], [`app`] | settings; build, run, drain |

pub mod app;
pub mod backoff;
mod build;
pub mod check;
pub mod config;
mod copying;
pub mod counting;
pub mod figures;
pub mod health;
pub mod held;
pub mod intake;
pub mod job_processor;
pub mod kubernetes;
pub mod lease;
pub mod live;
pub mod log;
pub mod model;
pub mod obey;
pub mod reconcile;
pub mod remote;
pub mod retention;
pub mod sandbox;
pub mod settle;
pub mod snapshot;
pub mod transport;
pub mod upkeep;
pub mod watchdog;
pub mod workspace;
