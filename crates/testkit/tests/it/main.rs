//! Tests of the test tools, against real processes.

mod leftovers;
mod model;
mod process;
mod proxy;
mod servers;
mod sse;
