//! The Redis side: job lists, leases, healing, live events. The only crate that sees the Redis client.
//!
//! Postgres is the truth, Redis an index that can be rebuilt; but while Redis is there these hold:
//! - A job is one element in exactly one of five lists (`LLEN` is exact); every move is one script.
//! - An element in `jobs:processing` has a lease by the server's clock; whoever holds it has the claim's epoch,
//!   and nothing is settled with an older one.
//! - Deliveries are counted before a job runs, so that a crash counts.
//! - Pushing is idempotent by job id; settling is idempotent by epoch: a lost answer may be asked for again.
//! - No call hangs while Redis is away, and none is repeated behind our back.
//!
//! Written for Redis 7.0 and later. The scripts also keep to what Dragonfly and Valkey allow: a test carries them out
//! in Lua 5.4 with declared keys only. Those servers themselves have not been tried.

mod broken;
mod bus;
mod census;
mod connection;
mod consumer;
mod dead_letters;
mod delivery;
mod endpoint;
mod error;
mod foreign;
mod glance;
mod intake;
mod keys;
mod live;
mod maintenance;
mod nonces;
mod options;
mod queue;
mod rebuild;
mod renewer;
mod reply;
mod script;
mod server_report;
mod store;
mod supervision;
mod tls;

pub use bus::Signal;
pub use census::{Census, Element, Fault, HeldLease};
pub use consumer::{Consumer, ConsumerOptions, MAX_CLAIM, POLL_INTERVAL};
pub use dead_letters::DeadLetter;
pub use delivery::{BuryReason, Delivery, Settled, ack_all};
pub use error::{QueueError, RedisFault};
pub use glance::Glance;
pub use intake::Intake;
pub use keys::{ListName, log_channel};
pub use live::{Control, ControlSignal, LiveBus, LiveSubscription};
pub use maintenance::{AUDIT_INTERVAL, Maintenance, SWEEP_INTERVAL, Swept};
pub use nonces::Nonces;
pub use options::{RedisOptions, SettingFaults};
pub use queue::{Depths, Queue};
pub use rebuild::{Entry, Page, Waiting};
pub use renewer::{HeldClaim, Renewal, Renewer};
pub use server_report::ServerReport;
