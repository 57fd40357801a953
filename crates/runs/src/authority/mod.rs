//! The only writer of runs and their events.
//!
//! [`load`] reads the run row under its lock, [`batch::Batch`] turns typed changes into rows and events in
//! memory, and one pipelined commit writes them. Every event text passes through [`batch::Batch::push`] or
//! [`batch::Batch::push_twin`] and nowhere else.

pub(crate) mod apply;
pub(crate) mod batch;
pub(crate) mod create;
pub(crate) mod interrupts;
pub(crate) mod load;
pub(crate) mod row;
pub(crate) mod steps;
pub(crate) mod write;
