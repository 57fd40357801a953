//! The queue against real redis-servers.

mod faults;
mod foreign;
mod healing;
mod life;
mod live;
mod operators;
mod retries;
mod support;
