//! The vendors' clients against a local model server that checks every request as the vendors would.

mod faults;
mod layers;
mod setup;
mod streams;
