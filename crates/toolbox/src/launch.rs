//! From a program to a command: which interpreter, with which source file. The same in a local sandbox and in a pod.

use crate::wire::Program;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The whole environment of a tool.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "PATH",
        "/usr/local/bin:/usr/local/go/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ),
    ("HOME", "/workspace"),
    ("LANG", "C.UTF-8"),
    ("TMPDIR", "/tmp"),
];
/// Where programs are looked for.
const BIN_DIRS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/go/bin"];
/// First Node.js that runs TypeScript by leaving out the types.
const STRIP_TYPES: (u32, u32) = (22, 6);
/// Kernels take single arguments of up to 128 KiB; longer commands go through a file.
const LONGEST_ARGUMENT: usize = 120 * 1024;

/// Why a program has no command here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    #[error("{language} is not available in the sandbox: install {install}")]
    Missing { language: String, install: &'static str },
    #[error("command holds a NUL character")]
    Nul,
    #[error("language must be python, javascript, typescript, bash, ruby or go, not {0}")]
    Language(String),
}

/// An installed Node.js.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    /// Major and minor; nothing when it does not say or was not asked.
    pub version: Option<(u32, u32)>,
}

impl Node {
    fn strips_types(&self) -> bool {
        self.version.is_some_and(|version| version >= STRIP_TYPES)
    }
}

/// Interpreters that a tool can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    pub sh: PathBuf,
    pub bash: Option<PathBuf>,
    pub python: Option<PathBuf>,
    pub node: Option<Node>,
    pub ruby: Option<PathBuf>,
    pub go: Option<PathBuf>,
}

impl Toolchain {
    /// Looks for the programs whose real files are `visible`; nothing when there is no `sh`.
    pub fn find(visible: impl Fn(&Path) -> bool) -> Option<Self> {
        let find = |name: &str| find(name, &visible);
        Some(Self {
            sh: find("sh")?,
            bash: find("bash"),
            python: find("python3"),
            node: find("node").map(|path| Node { path, version: None }),
            ruby: find("ruby"),
            go: find("go"),
        })
    }

    /// Asks Node.js for its version, which only TypeScript needs.
    #[must_use]
    pub fn with_versions(mut self) -> Self {
        if let Some(node) = &mut self.node {
            node.version = node_version(&node.path);
        }
        self
    }

    /// The shell of shell commands.
    pub fn shell(&self) -> &Path {
        self.bash.as_deref().unwrap_or(&self.sh)
    }
}

/// The first program of this name whose real file is `visible`.
pub fn find(name: &str, visible: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut paths = BIN_DIRS.iter().map(|dir| Path::new(dir).join(name));
    paths.find(|path| is_executable(path) && path.canonicalize().is_ok_and(|real| visible(&real)))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn node_version(node: &Path) -> Option<(u32, u32)> {
    let output = Command::new(node).arg("--version").env_clear().output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut parts = text.trim().trim_start_matches('v').split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// A command and the source file it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub argv: Vec<String>,
    /// Name below the directory of sources, and the text.
    pub source: Option<(&'static str, String)>,
}

/// The languages of the tool `code`.
const LANGUAGES: [&str; 6] = ["python", "javascript", "typescript", "bash", "ruby", "go"];

/// What can be said of a program before anything is looked for.
///
/// # Errors
/// [`LaunchError::Nul`] and [`LaunchError::Language`].
pub fn check(program: &Program) -> Result<(), LaunchError> {
    match program {
        Program::Shell { command } if command.contains('\0') => Err(LaunchError::Nul),
        Program::Code { language, .. } if !LANGUAGES.contains(&language.as_str()) => {
            Err(LaunchError::Language(language.clone()))
        }
        Program::Shell { .. } | Program::Code { .. } => Ok(()),
    }
}

/// The command of a program; `code_dir` is where the tool sees its source file, without spaces or quotes.
pub fn launch(program: &Program, tools: &Toolchain, code_dir: &str) -> Result<Launch, LaunchError> {
    match program {
        Program::Shell { command } if command.contains('\0') => Err(LaunchError::Nul),
        Program::Shell { command } if command.len() > LONGEST_ARGUMENT => Ok(Launch {
            argv: argv(tools.shell(), [&format!("{code_dir}/command.sh")]),
            source: Some(("command.sh", command.clone())),
        }),
        Program::Shell { command } => Ok(Launch {
            argv: argv(tools.shell(), ["-c", command]),
            source: None,
        }),
        Program::Code { language, code } => {
            let (argv, name) = interpreter(language, tools, code_dir)?;
            Ok(Launch {
                argv,
                source: Some((name, code.clone())),
            })
        }
    }
}

fn argv<const N: usize>(program: &Path, rest: [&str; N]) -> Vec<String> {
    let program = program.display().to_string();
    std::iter::once(program)
        .chain(rest.into_iter().map(str::to_owned))
        .collect()
}

fn interpreter(
    language: &str,
    tools: &Toolchain,
    dir: &str,
) -> Result<(Vec<String>, &'static str), LaunchError> {
    let missing = |install| LaunchError::Missing {
        language: language.to_owned(),
        install,
    };
    let need = |path: &Option<PathBuf>, install| path.clone().ok_or_else(|| missing(install));
    let node = || tools.node.as_ref().ok_or_else(|| missing("nodejs"));
    match language {
        "python" => {
            let python = need(&tools.python, "python3")?;
            // Runs the file as if it were in the working directory, whose modules it can import; no bytecode files are
            // left, output is not held back.
            let launcher = format!(
                "import sys; sys.argv = ['main.py']; __file__ = '{dir}/main.py'; \
                 exec(compile(open(__file__).read(), __file__, 'exec'))"
            );
            Ok((argv(&python, ["-B", "-u", "-c", &launcher]), "main.py"))
        }
        // From standard input, so that `require` looks in the working directory.
        "javascript" => {
            let command = format!("exec {} - < {dir}/main.js", node()?.path.display());
            Ok((argv(&tools.sh, ["-c", &command]), "main.js"))
        }
        "typescript" => {
            let node = node()?;
            if !node.strips_types() {
                return Err(missing("nodejs 22.6 or newer"));
            }
            let file = format!("{dir}/main.ts");
            let flags = ["--experimental-strip-types", "--no-warnings", &file];
            Ok((argv(&node.path, flags), "main.ts"))
        }
        "bash" => {
            let bash = need(&tools.bash, "bash")?;
            Ok((argv(&bash, [&format!("{dir}/main.sh")]), "main.sh"))
        }
        "ruby" => {
            let ruby = need(&tools.ruby, "ruby")?;
            Ok((argv(&ruby, [&format!("{dir}/main.rb")]), "main.rb"))
        }
        "go" => {
            let go = need(&tools.go, "golang-go")?;
            let command = format!("GOCACHE=/tmp/go-build exec {} run {dir}/main.go", go.display());
            Ok((argv(&tools.sh, ["-c", &command]), "main.go"))
        }
        other => Err(LaunchError::Language(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Toolchain {
        Toolchain {
            sh: "/bin/sh".into(),
            bash: None,
            python: Some("/usr/bin/python3".into()),
            node: Some(Node {
                path: "/usr/bin/node".into(),
                version: Some((22, 5)),
            }),
            ruby: None,
            go: None,
        }
    }

    fn code(language: &str) -> Result<Launch, LaunchError> {
        let program = Program::Code {
            language: language.to_owned(),
            code: "text".to_owned(),
        };
        launch(&program, &tools(), "/run/code")
    }

    #[test]
    fn a_shell_command_is_an_argument_unless_it_is_too_long_for_one() {
        let shell = |command: String| launch(&Program::Shell { command }, &tools(), "/run/code");
        assert_eq!(shell("ls".to_owned()).unwrap().argv, ["/bin/sh", "-c", "ls"]);
        let long = shell("x".repeat(LONGEST_ARGUMENT + 1)).unwrap();
        assert_eq!(long.argv, ["/bin/sh", "/run/code/command.sh"]);
        assert_eq!(shell("a\0b".to_owned()), Err(LaunchError::Nul));
    }

    #[test]
    fn a_language_without_its_interpreter_names_what_to_install() {
        let text = |language| code(language).unwrap_err().to_string();
        assert_eq!(text("ruby"), "ruby is not available in the sandbox: install ruby");
        let node = "typescript is not available in the sandbox: install nodejs 22.6 or newer";
        assert_eq!(text("typescript"), node);
        let others = "language must be python, javascript, typescript, bash, ruby or go, not perl";
        assert_eq!(text("perl"), others);
        assert_eq!(
            code("python").unwrap().source,
            Some(("main.py", "text".to_owned()))
        );
    }
}
