//! Files of ended runs over real stores: what goes, what stays, and what a sweep that is cut off leaves to the next one.
#![cfg(test)]

mod setup;
mod sweeps;
