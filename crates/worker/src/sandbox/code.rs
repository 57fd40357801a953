//! From a program to a command inside the sandbox.

use agent::ports::{Program, SandboxError};
use toolbox::launch::{Launch, LaunchError, Toolchain};
use toolbox::wire;

/// Where the source text is seen inside.
pub(super) const CODE_DIR: &str = "/run/code";

/// The command of a program.
///
/// # Errors
/// [`SandboxError::Unavailable`] when its interpreter is not installed, [`SandboxError::InvalidInput`] when the
/// language is none of ours.
pub(super) fn launch(program: &Program, tools: &Toolchain) -> Result<Launch, SandboxError> {
    let program = match program.clone() {
        Program::Shell { command } => wire::Program::Shell { command },
        Program::Code { language, code } => wire::Program::Code { language, code },
    };
    toolbox::launch::launch(&program, tools, CODE_DIR).map_err(|error| match error {
        LaunchError::Missing { .. } => SandboxError::Unavailable(error.to_string()),
        LaunchError::Nul | LaunchError::Language(_) => SandboxError::InvalidInput(error.to_string()),
    })
}
