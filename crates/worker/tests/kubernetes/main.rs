//! Tools as Kubernetes Jobs, against a fake cluster that really runs them; nothing of the executor is replaced.
#![cfg(test)]

mod adoption;
#[expect(dead_code, reason = "workspaces are made with the workers here")]
#[path = "../conformance/cases/mod.rs"]
mod cases;
mod check;
mod classes;
mod conformance;
mod disruption;
mod kills;
mod output;
mod quota;
mod reaper;
mod setup;
mod stopping;
mod system;
mod watching;
