//! What stands between the supervisor and a child: `agentctl guard … -- PROGRAM ARGS`.
//!
//! It asks the kernel to signal this process when its parent dies (Linux), drops to another user when told to, and
//! then becomes the program. So children go even when the supervisor was killed with SIGKILL. Elsewhere the next `up`
//! or `down` ends them by the recorded process ids.
//!
//! The kernel ties the signal to the *thread* that started the child: the supervisor starts all of them from its main
//! thread, on a current-thread runtime.

use crate::args::GuardArgs;
use crate::failure::Failure;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getppid, setgid, setuid};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Becomes the program; returns only when that failed.
pub fn exec(args: &GuardArgs) -> Failure {
    if let Err(failure) = prepare(args) {
        return failure;
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Failure::new("no program named");
    };
    let error = Command::new(program).args(rest).exec();
    Failure::new(format!("cannot start {}", program.to_string_lossy())).why(&error)
}

fn prepare(args: &GuardArgs) -> Result<(), Failure> {
    drop_rights(args).map_err(|error| Failure::new("cannot change the user").why(&error))?;
    // After the change of user, which clears it.
    die_with_parent(&args.death_signal)
        .map_err(|error| Failure::new("cannot watch the parent").why(&error))?;
    if getppid() != Pid::from_raw(args.parent) {
        return Err(Failure::new("the parent is gone already"));
    }
    Ok(())
}

fn drop_rights(args: &GuardArgs) -> nix::Result<()> {
    if let Some(gid) = args.gid {
        let gid = Gid::from_raw(gid);
        #[cfg(target_os = "linux")]
        nix::unistd::setgroups(&[gid])?;
        setgid(gid)?;
    }
    if let Some(uid) = args.uid {
        setuid(Uid::from_raw(uid))?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn die_with_parent(signal: &str) -> nix::Result<()> {
    let signal: Signal = signal.parse()?;
    nix::sys::prctl::set_pdeathsig(signal)
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(signal: &str) -> nix::Result<()> {
    signal.parse::<Signal>().map(|_| ())
}

/// The program that is this one, also after its file was replaced by a new build.
pub fn own_program() -> std::io::Result<std::path::PathBuf> {
    #[cfg(target_os = "linux")]
    {
        Ok(std::path::PathBuf::from("/proc/self/exe"))
    }
    #[cfg(not(target_os = "linux"))]
    {
        std::env::current_exe()
    }
}
