//! From a program to a command inside the sandbox.

use agent::ports::{Program, SandboxError};
use toolbox::launch::{Launch, LaunchError, Toolchain};
use toolbox::wire;

/// Where the source text is seen inside.
pub(super) const CODE_DIR: &str = "/run/code";

/// Refuses what no sandbox can run, before anything is begun.
///
/// # Errors
/// [`SandboxError::InvalidInput`].
pub(super) fn check(program: &Program) -> Result<(), SandboxError> {
    toolbox::launch::check(&of_wire(program)).map_err(told)
}

/// The command of a program.
///
/// # Errors
/// [`SandboxError::Unavailable`] when its interpreter is not installed, [`SandboxError::InvalidInput`] when the
/// language is none of ours.
pub(super) fn launch(program: &Program, tools: &Toolchain) -> Result<Launch, SandboxError> {
    toolbox::launch::launch(&of_wire(program), tools, CODE_DIR).map_err(told)
}

fn of_wire(program: &Program) -> wire::Program {
    match program.clone() {
        Program::Shell { command } => wire::Program::Shell { command },
        Program::Code { language, code } => wire::Program::Code { language, code },
    }
}

fn told(error: LaunchError) -> SandboxError {
    match error {
        LaunchError::Missing { .. } => SandboxError::Unavailable(error.to_string()),
        LaunchError::Nul | LaunchError::Language(_) => SandboxError::InvalidInput(error.to_string()),
    }
}
