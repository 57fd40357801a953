//! Dev-only: what the tests of all crates stand on. Real servers, real wires, real faults.
//!
//! | item | is |
//! | --- | --- |
//! | [`Redis`], [`Postgres`] | private servers to kill, stop, pause and restart |
//! | `S3` (feature `s3`) | the product's object store in this process |
//! | `kube::KubeApi` (feature `kube`) | a Kubernetes API server with a node that really runs the pods |
//! | [`ModelServer`], [`Answer`] | scripted OpenAI and Anthropic endpoint that checks every transcript |
//! | [`vendors::Vendors`] | strict stand-ins for search vendors, GitHub, Linear and Slack |
//! | [`Collector`], [`Span`] | OTLP collector that keeps the spans it gets |
//! | [`FaultProxy`] | cuts, stalls and loses replies between a client and any of these |
//! | [`Program`], [`Process`], [`bin`] | our own binaries as children |
//! | [`Sse`], [`Frame`] | strict event-stream client |
//! | [`Watch`], [`Follower`] | the same over a bare socket, for thousands; one that resumes and checks |
//! | [`jwt`], [`free_port`], [`eventually`] | small things |
//!
//! Invariants:
//! - A missing server binary fails the test with the line that installs it; nothing is skipped.
//! - Every server is private (own port, own directory) and cannot outlive the test process, even if that
//!   is killed with SIGKILL.
//! - Ready means asked: a `start` returns when the very process it started has answered.
//!
//! ```no_run
//! # async fn example() {
//! let redis = testkit::Redis::start().await;
//! let database_url = testkit::Postgres::shared().await.migrated_database().await;
//! let model = testkit::ModelServer::start().await;
//! model.push(testkit::Answer::tool_calls(vec![("shell", serde_json::json!({"command": "ls"}))]));
//! let worker = testkit::Program::new(testkit::bin("agent-worker"))
//!     .env("DATABASE_URL", database_url)
//!     .env("REDIS_URL", redis.url())
//!     .env("OPENAI_BASE_URL", model.openai_url())
//!     .start();
//! # drop(worker);
//! # }
//! ```

mod background;
mod collector;
mod dir;
mod follower;
mod guard;
#[cfg(feature = "kube")]
pub mod kube;
mod model;
mod poll;
mod port;
mod postgres;
mod process;
mod proxy;
mod redis;
#[cfg(feature = "s3")]
mod s3;
mod sse;
mod token;
pub mod vendors;
mod watch;

pub use collector::{Collector, Span};
pub use follower::Follower;
pub use model::{Answer, ModelServer, Recorded, Wire};
pub use poll::{eventually, eventually_some};
pub use port::free_port;
pub use postgres::Postgres;
pub use process::{Process, Program, bin};
pub use proxy::FaultProxy;
pub use redis::Redis;
#[cfg(feature = "s3")]
pub use s3::S3;
pub use sse::{Frame, Sse};
pub use token::jwt;
pub use watch::{Watch, frame_id};
