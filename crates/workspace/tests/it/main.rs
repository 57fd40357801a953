//! Workspaces over the real object store and over memory: the same rules for both.
#![cfg(test)]

mod life;
mod rules;
mod s3;
mod setup;
mod sync;
