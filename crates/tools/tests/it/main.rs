//! The tools against strict stand-ins of their vendors.
#![cfg(test)]

mod connector;
mod faults;
mod fetch;
mod search;
mod setup;
