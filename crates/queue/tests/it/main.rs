//! The queue against real redis-servers.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as loudly as the tests"
)]

mod census;
mod cluster;
mod conformance;
mod faults;
mod foreign;
mod healing;
mod life;
mod live;
mod lua54;
mod model;
mod operators;
mod precision;
mod raw;
mod retries;
mod support;
