//! The store behind its HTTP server, driven by the AWS client.
#![cfg(test)]

mod durability;
mod listing;
mod multipart;
mod objects;
mod setup;
