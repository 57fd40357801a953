//! The guard against real listeners: what is refused makes no connection.
#![cfg(test)]

mod bodies;
mod proxy;
mod redirects;
mod setup;
mod targets;
