//! The local sandbox on this very machine: what programs can do, and what they cannot.
#![cfg(test)]

mod ending;
mod files;
mod isolation;
mod limits;
mod programs;
mod setup;
