//! The first process of a tool's pod: fetches the workspace, runs the tool, stores what it left, reports. One call each.
//!
//! Invariants:
//! - The order is read once; URLs are in this process's memory only, which the tool cannot read: it is not dumpable.
//! - The start mark is written after the files are there and before the tool begins: without it nothing has run.
//! - When the tool has ended, no process of it is left; only then its files are looked at.
//! - The record is written last, in one request. Without it nothing of this call counts.
//! - Nothing waits for ever: not for the store, not for a reader of the log, not for a process that ignores signals.

mod call;
mod display;
mod exec;
mod fetch;
mod http;
mod install;
mod mark;
mod memory;
mod names;
mod order;
mod output;
mod policy;
mod processes;
mod signals;
mod tool;
mod upload;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use toolbox::wire::exit;

const HELP: &str = "\
agent-tool-supervisor: the first process of a tool's pod

Usage:
  agent-tool-supervisor                    carry out /run/agent-order/order.json
  agent-tool-supervisor exec POLICY -- ARGV...
                                           confine this process, then become ARGV
  agent-tool-supervisor install DIR        copy this program to DIR, for images that lack it
  agent-tool-supervisor --version | --help

Exit codes: 0 the record is stored, 64 no usable order, 70 internal, 73 the tool was started before,
74 the record could not be stored, 75 the tool was not begun
";

/// Why the tool was not run, or what it left was not stored: becomes the ending of the record.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub class: toolbox::wire::FailureClass,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(class: toolbox::wire::FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

/// The whole program; `arguments` without its own name.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .collect();
    let code = match words.as_slice() {
        [] => call::run(),
        ["exec", ..] => exec::run(&arguments[1..]),
        ["install", _] => install::run(arguments[1].as_ref()),
        ["--version"] => say(&format!("agent-tool-supervisor {}\n", env!("CARGO_PKG_VERSION"))),
        ["--help"] => say(HELP),
        _ => {
            complain(HELP);
            exit::USAGE
        }
    };
    ExitCode::from(code)
}

fn say(text: &str) -> u8 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => exit::INTERNAL,
    }
}

/// To standard error; nobody may be there to read it.
pub(crate) fn complain(text: &str) {
    if std::io::stderr().write_all(text.as_bytes()).is_err() {
        // There is no other place to tell it.
    }
}
