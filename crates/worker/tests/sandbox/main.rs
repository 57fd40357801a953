//! What is the local sandbox's own; what it has in common with the others is in the suite `conformance`.
#![cfg(test)]

mod ending;
mod files;
mod isolation;
mod launching;
mod programs;
mod setup;
