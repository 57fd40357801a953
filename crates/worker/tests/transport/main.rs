//! Files and results between the store and a tool's pod, against a real object store. The pod is played here: it has the order
//! and nothing else.

#![cfg(test)]

mod figures;
mod hostile;
mod pod;
mod records;
mod rounds;
mod setup;
