//! Tests of the test tools, against real processes.

#[cfg(feature = "kube")]
mod kube;
mod leftovers;
mod model;
mod process;
mod proxy;
#[cfg(feature = "s3")]
mod s3;
mod servers;
mod sse;
