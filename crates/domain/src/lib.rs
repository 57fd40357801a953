//! The vocabulary of the runtime and its one state machine. No IO, no async, no wall clock.
//!
//! Everything that crosses a process border is defined here once: run statuses and the table of allowed
//! changes ([`status`]), commands and what they lead to ([`mod@decide`]), typed changes of a run ([`change`]), the
//! stored event and its two stream forms ([`event`], [`wire`]), the job in Redis ([`job`]), plans
//! ([`plan`]), actions, tool results and files ([`action`], [`tool`], [`files`]), who may write ([`write_mode`]).
//!
//! Invariants:
//! - A status changes only along [`status::RunStatus::may_become`]; [`decide::decide`] is the only caller's way.
//! - An event's `seq` is per run, from 1, gapless; it is given by the store, never here.
//! - Time and ids come from [`clock::Clock`] and [`clock::Ids`], so that a scripted run replays byte for byte.

pub mod action;
pub mod breakage;
pub mod budget;
pub mod canonical;
pub mod change;
pub mod clock;
pub mod command;
pub mod decide;
pub mod event;
pub mod files;
pub mod ids;
pub mod input;
pub mod interrupt;
pub mod job;
pub mod mcp;
pub mod plan;
pub mod policy;
pub mod price;
pub mod recording;
pub mod redact;
pub mod run;
pub mod runtime_event;
pub mod status;
pub mod storable;
pub mod tool;
pub mod waiting;
pub mod wire;
pub mod write_mode;

pub use action::{Action, ActionKind, Turn, Usage};
pub use budget::{Budget, Spend};
pub use change::Change;
pub use clock::{Clock, Ids, ManualClock, SystemClock, SystemIds};
pub use command::{Command, EffectDecision, Verdict};
pub use decide::{Decision, JobIntent, Rejection, decide};
pub use event::{Event, LogType, NewEvent};
pub use ids::{InterruptId, JobId, MessageId, RunId, StepId, UserId, WorkerId};
pub use job::Job;
pub use plan::{Phase, Plan};
pub use policy::{Labels, Policy};
pub use price::{Price, Prices};
pub use redact::Redactor;
pub use run::{RunState, StepStatus};
pub use status::RunStatus;
pub use storable::Storable;
pub use tool::{Effect, ToolResult};
pub use write_mode::WriteMode;
