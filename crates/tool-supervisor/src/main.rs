//! `agent-tool-supervisor`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    tool_supervisor::main(&arguments)
}
