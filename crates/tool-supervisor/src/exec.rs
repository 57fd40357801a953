//! `exec POLICY -- ARGV...`: what the supervisor starts itself as, to become the tool.
//!
//! Its standard input is a socket to the supervisor: words on it say why the tool was not started; its end without a word says
//! that the tool runs. The tool gets `/dev/null` in its place.

use nix::sys::signal::SigSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Shells use it for programs that cannot be started.
const CANNOT_START: u8 = 126;
/// Killed before the supervisor when memory runs out.
const FIRST_TO_KILL: &str = "1000";

/// First words of what is told to the supervisor.
pub(crate) const CONFINEMENT: &str = "confinement: ";
pub(crate) const PROGRAM: &str = "program: ";

pub(crate) fn run(arguments: &[OsString]) -> u8 {
    let [policy, dashes, program, rest @ ..] = arguments else {
        crate::complain("exec needs POLICY -- ARGV...\n");
        return toolbox::wire::exit::USAGE;
    };
    let told = io::stdin().as_fd().try_clone_to_owned();
    let why = if dashes == "--" {
        become_tool(policy, program, rest)
    } else {
        format!("{PROGRAM}-- is missing")
    };
    match told.map(|to| tell(to, &why)) {
        Ok(Ok(())) => {}
        _ => crate::complain(&format!("{why}\n")),
    }
    CANNOT_START
}

fn tell(to: OwnedFd, why: &str) -> io::Result<()> {
    File::from(to).write_all(why.as_bytes())
}

/// Returns only when it failed.
fn become_tool(policy: &OsString, program: &OsString, arguments: &[OsString]) -> String {
    let prepared = prepare().map_err(|error| format!("{PROGRAM}{error}"));
    let confined = prepared.and_then(|()| confine(policy).map_err(|error| format!("{CONFINEMENT}{error}")));
    if let Err(why) = confined {
        return why;
    }
    let error = Command::new(program).args(arguments).exec();
    format!("{PROGRAM}cannot start {}: {error}", program.display())
}

fn prepare() -> io::Result<()> {
    // The supervisor waits for its signals in a thread; the tool shall have them as usual.
    SigSet::empty().thread_set_mask()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    // May be forbidden; then the kernel chooses by size.
    std::fs::write("/proc/self/oom_score_adj", FIRST_TO_KILL).unwrap_or(());
    Ok(())
}

/// The one place where the tool is confined.
fn confine(policy: &OsString) -> Result<(), String> {
    let text = policy.to_str().unwrap_or_default();
    let policy =
        serde_json::from_str(text).map_err(|error| format!("the policy is not of our form: {error}"))?;
    toolbox::confine::enter(&policy).map_err(|error| error.to_string())
}
