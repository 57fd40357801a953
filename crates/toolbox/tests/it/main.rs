//! What a confined process can do, and what it cannot, on this kernel.
#![cfg(test)]

mod confine;
