//! `agent-api` with the internal surface alone, for deployments that keep it apart from the public one.

use std::process::ExitCode;

fn main() -> ExitCode {
    api::program::main(&[("API_SURFACES", "internal")])
}
