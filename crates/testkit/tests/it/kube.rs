//! The fake cluster, asked over its socket as any client asks.

mod deletion;
mod kubectl;
mod pods;
mod refusals;
mod setup;
mod streams;
