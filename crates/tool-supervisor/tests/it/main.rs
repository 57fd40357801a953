//! The supervisor as a real process: first of its process namespace, in a root like a pod's, against a real object store.

#![cfg(test)]

mod bed;
mod calls;
mod ends;
mod faults;
mod files;
mod output;
mod pod;
