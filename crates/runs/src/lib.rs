//! The Postgres side of the runtime: the only crate that speaks SQL.
//!
//! | module | owns |
//! | --- | --- |
//! | [`db`] | settings, TLS, the pool, migrations |
//! | [`orchestration`] | commands: load under the row's lock, `domain::decide`, commit |
//! | `authority` | the only writer of runs and events: typed changes become rows and events of one transaction |
//! | `projectors` | checkpoints, summaries and drift, written in the same transaction |
//! | [`runtime_runs`] | runs of `/internal/v1`: create, append, get, receipt, replay, the hash chain |
//! | [`workers`] | workers of `/internal/v1` and their lifecycle events |
//! | [`reprojection`], [`history`] | rebuilding projections; hashes of recorded histories |
//! | [`reader`] | read views of the public API, streams and lists |
//! | [`outbox`], [`sweep`], [`leases`], [`restore`] | what relay, reconciler and workers ask |
//! | [`retention`] | whose files are past their time |
//! | [`figures`] | metrics |
//! | [`api_keys`], [`signing`], [`credits`], [`budget`] | who may come in, what may be spent |
//!
//! Invariants:
//! - One command is one transaction: run row, events, their twins in `runtime.run_events`, projections and
//!   the outbox row are committed together or not at all.
//! - `seq` is per run, from 1, without gap; the run row's lock is held from reading `last_seq` to the commit, so
//!   commit order is seq order. `created_at` rises strictly with `seq`.
//! - A worker's write carries the epoch of its claim and is refused when the row holds another.
//! - After the final event of a run nothing more is written to it, but the mark that its files are gone.

pub mod api_keys;
mod authority;
pub mod budget;
pub mod credits;
pub mod db;
pub mod figures;
pub mod history;
pub mod leases;
pub mod orchestration;
pub mod outbox;
mod projectors;
pub mod reader;
pub mod reprojection;
pub mod restore;
pub mod retention;
pub mod runtime_machine;
pub mod runtime_runs;
pub mod signing;
pub mod store;
pub mod sweep;
pub mod workers;

pub use api_keys::{ApiKey, ApiKeys, NewApiKey};
pub use budget::{Budgets, DayCaps, Funds};
pub use credits::Credits;
pub use db::migrate::{MIGRATIONS, Migration, MigrationError, MigrationReport};
pub use db::{Db, DbOptions, DbOptionsError};
pub use leases::{Leases, Renewal, RenewalStatus};
pub use orchestration::{
    Claimed, CommandError, Committed, Created, IdempotencyKey, NewRun, Orchestration, RetryEdits, RunLimits,
    RunRules,
};
pub use outbox::{Backlog, Outbox};
pub use projectors::projection_hash;
pub use reader::{
    BadCursor, KnownFile, LogPage, LogQuery, Reader, RunHead, RunList, RunListQuery, RunParts, StoredArtifact,
};
pub use restore::{RestoredMessage, RestoredStep, RunSnapshot, StoredTurn, WantedFiles};
pub use retention::{Caps, Cutoffs, EndedRun, Retention};
pub use runtime_machine::{Refusal, Transition};
pub use runtime_runs::{
    AppendEvent, Appended, ChainReport, EventWindow, NewRuntimeRun, Replay, RuntimeError, RuntimeEvent,
    RuntimeRun, RuntimeRuns,
};
pub use signing::SigningKeys;
pub use store::{Fault, StoreError};
pub use sweep::{LiveRun, Overdue, Sweep};
pub use workers::Workers;
