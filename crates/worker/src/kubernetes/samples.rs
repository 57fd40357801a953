//! What the tests of this module's parts are made of.

use super::options::KubernetesOptions;
use agent::ports::{Program, SandboxRequest};
use clap::Parser;
use domain::{RunId, StepId, UserId};
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Parser)]
struct Bare {
    #[command(flatten)]
    options: KubernetesOptions,
}

/// The settings as they are when nothing is set.
pub(crate) fn options() -> KubernetesOptions {
    Bare::parse_from(["test"]).options
}

pub(crate) fn shell(command: &str) -> SandboxRequest {
    request(Program::Shell {
        command: command.to_owned(),
    })
}

pub(crate) fn code(language: &str, code: &str) -> SandboxRequest {
    request(Program::Code {
        language: language.to_owned(),
        code: code.to_owned(),
    })
}

fn request(program: Program) -> SandboxRequest {
    SandboxRequest {
        run_id: RunId(Uuid::from_u128(0x7a5f_0c1e_0000_4000_8000_0000_0000_0001)),
        step_id: StepId(Uuid::from_u128(0x0d9c_8b7a_0000_4000_8000_0000_0000_0002)),
        user_id: UserId::from("user-1"),
        program,
        working_dir: "/workspace".to_owned(),
        timeout: Duration::from_mins(5),
    }
}
