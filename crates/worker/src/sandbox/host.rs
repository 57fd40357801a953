//! What this machine has to build a sandbox with.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are looked for; the same directories are visible inside.
const BIN_DIRS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/go/bin"];
/// First Node.js that runs TypeScript by leaving out the types.
const STRIP_TYPES: (u32, u32) = (22, 6);
/// User and group outside when we are root ourselves: one that owns nothing.
const UNPRIVILEGED_ID: u32 = 64_999;

/// An installed Node.js.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub path: PathBuf,
    /// Major and minor; nothing when it does not say.
    pub version: Option<(u32, u32)>,
}

impl Node {
    pub(super) fn strips_types(&self) -> bool {
        self.version.is_some_and(|version| version >= STRIP_TYPES)
    }
}

/// Interpreters that are visible inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Toolchain {
    pub sh: PathBuf,
    pub bash: Option<PathBuf>,
    pub python: Option<PathBuf>,
    pub node: Option<Node>,
    pub ruby: Option<PathBuf>,
    pub go: Option<PathBuf>,
}

impl Toolchain {
    /// The shell of shell commands.
    pub(super) fn shell(&self) -> &Path {
        self.bash.as_deref().unwrap_or(&self.sh)
    }
}

/// The machinery and the interpreters.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub bwrap: PathBuf,
    pub prlimit: PathBuf,
    pub tools: Toolchain,
    /// This bwrap can forbid further user namespaces.
    pub can_disable_userns: bool,
    /// The id to run as, when we are root.
    pub drop_to: Option<u32>,
}

impl Host {
    /// Looks the machine over.
    ///
    /// # Errors
    /// What is missing and how to get it.
    pub(super) fn find() -> Result<Self, String> {
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
            prlimit: need("prlimit", "util-linux")?,
            tools: Toolchain {
                sh: need("sh", "dash")?,
                bash: find("bash"),
                python: find("python3"),
                node: find("node").map(|path| Node {
                    version: node_version(&path),
                    path,
                }),
                ruby: find("ruby"),
                go: find("go"),
            },
            drop_to: nix::unistd::geteuid().is_root().then_some(UNPRIVILEGED_ID),
            bwrap,
        })
    }
}

/// An executable that will also be there inside: its real file is below `/usr` or a system directory.
fn find(name: &str) -> Option<PathBuf> {
    BIN_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| {
        let executable = path
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        let visible = path.canonicalize().is_ok_and(|real| {
            ["/usr", "/bin", "/sbin"]
                .iter()
                .any(|root| real.starts_with(root))
        });
        executable && visible
    })
}

/// Standard output and error of a program of the system, run without an environment.
fn output(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program).arg(argument).env_clear().output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let both = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&both).into_owned())
}

fn node_version(node: &Path) -> Option<(u32, u32)> {
    let text = output(node, "--version").ok()?;
    let mut parts = text.trim().trim_start_matches('v').split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
