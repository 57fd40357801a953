//! What this machine has to build a sandbox with.

use std::path::{Path, PathBuf};
use std::process::Command;
use toolbox::launch::Toolchain;

/// User and group outside when we are root ourselves: one that owns nothing.
const UNPRIVILEGED_ID: u32 = 64_999;

/// The machinery and the interpreters.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub bwrap: PathBuf,
    /// Our own program, by a path that the sandbox's user can open.
    pub program: PathBuf,
    pub tools: Toolchain,
    /// This bwrap can forbid further user namespaces.
    pub can_disable_userns: bool,
    /// The id to run as, when we are root.
    pub drop_to: Option<u32>,
}

impl Host {
    /// Looks the machine over. `program` is one of ours that knows [`toolbox::confine::VERB`].
    ///
    /// # Errors
    /// What is missing and how to get it.
    pub(super) fn find(program: &Path) -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("TOOL_EXECUTOR=local needs Linux: set TOOL_EXECUTOR=kubernetes or none".to_owned());
        }
        let need = |name: &str, package: &str| {
            find(name).ok_or_else(|| format!("the sandbox needs {name}: install the package {package}"))
        };
        let bwrap = need("bwrap", "bubblewrap")?;
        let help = output(&bwrap, "--help")?;
        Ok(Self {
            can_disable_userns: help.contains("--disable-userns"),
            program: program.to_owned(),
            tools: tools()?,
            drop_to: nix::unistd::geteuid().is_root().then_some(UNPRIVILEGED_ID),
            bwrap,
        })
    }
}

fn is_visible(real: &Path) -> bool {
    ["/usr", "/bin", "/sbin"]
        .iter()
        .any(|root| real.starts_with(root))
}

/// An executable that will also be there inside: its real file is below `/usr` or a system directory.
fn find(name: &str) -> Option<PathBuf> {
    toolbox::launch::find(name, is_visible)
}

fn tools() -> Result<Toolchain, String> {
    let tools = Toolchain::find(is_visible).ok_or("the sandbox needs sh: install the package dash")?;
    Ok(tools.with_versions())
}

/// Standard output and error of a program of the system, run without an environment.
fn output(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program).arg(argument).env_clear().output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let both = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&both).into_owned())
}
