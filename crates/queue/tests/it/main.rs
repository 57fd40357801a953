//! The queue against real redis-servers.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as loudly as the tests"
)]

mod census;
mod cluster;
mod faults;
mod foreign;
mod healing;
mod life;
mod live;
mod model;
mod operators;
mod raw;
mod retries;
mod support;
