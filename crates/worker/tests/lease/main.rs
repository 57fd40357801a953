//! Leases of held runs while everything else stands still.
#![cfg(test)]

mod blocked;
