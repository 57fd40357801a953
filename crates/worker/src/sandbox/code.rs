//! From a program to a command inside the sandbox: which interpreter, with which source file.

use super::host::Toolchain;
use agent::ports::{Program, SandboxError};
use std::path::Path;

/// Where the source text is seen inside.
pub(super) const CODE_DIR: &str = "/run/code";

/// Runs the file as if it were in the working directory, whose modules it can import; no bytecode files are left,
/// output is not held back.
const PYTHON_LAUNCHER: &str = "import sys; sys.argv = ['main.py']; __file__ = '/run/code/main.py'; \
     exec(compile(open(__file__).read(), __file__, 'exec'))";

/// A command and the source file it needs in [`CODE_DIR`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    pub argv: Vec<String>,
    pub source: Option<(&'static str, String)>,
}

fn missing(language: &str, install: &str) -> SandboxError {
    SandboxError::Unavailable(format!(
        "{language} is not available in the sandbox: install {install}"
    ))
}

fn argv<const N: usize>(program: &Path, rest: [&str; N]) -> Vec<String> {
    let program = program.display().to_string();
    std::iter::once(program)
        .chain(rest.into_iter().map(str::to_owned))
        .collect()
}

/// The command of a program.
///
/// # Errors
/// [`SandboxError::Unavailable`] when its interpreter is not installed, [`SandboxError::InvalidInput`] when the
/// language is none of ours.
pub(super) fn launch(program: &Program, tools: &Toolchain) -> Result<Launch, SandboxError> {
    match program {
        Program::Shell { command } if command.contains('\0') => Err(SandboxError::InvalidInput(
            "command holds a NUL character".to_owned(),
        )),
        Program::Shell { command } => Ok(Launch {
            argv: argv(tools.shell(), ["-c", command]),
            source: None,
        }),
        Program::Code { language, code } => {
            let (argv, name) = interpreter(language, tools)?;
            Ok(Launch {
                argv,
                source: Some((name, code.clone())),
            })
        }
    }
}

fn interpreter(language: &str, tools: &Toolchain) -> Result<(Vec<String>, &'static str), SandboxError> {
    let node = || tools.node.as_ref().ok_or_else(|| missing(language, "nodejs"));
    match language {
        "python" => {
            let python = tools
                .python
                .as_deref()
                .ok_or_else(|| missing(language, "python3"))?;
            Ok((argv(python, ["-B", "-u", "-c", PYTHON_LAUNCHER]), "main.py"))
        }
        // From standard input, so that `require` looks in the working directory.
        "javascript" => {
            let command = format!("exec {} - < {CODE_DIR}/main.js", node()?.path.display());
            Ok((argv(&tools.sh, ["-c", &command]), "main.js"))
        }
        "typescript" => {
            let node = node()?;
            if !node.strips_types() {
                return Err(missing(language, "nodejs 22.6 or newer"));
            }
            let flags = ["--experimental-strip-types", "--no-warnings", "/run/code/main.ts"];
            Ok((argv(&node.path, flags), "main.ts"))
        }
        "bash" => {
            let bash = tools.bash.as_deref().ok_or_else(|| missing(language, "bash"))?;
            Ok((argv(bash, ["/run/code/main.sh"]), "main.sh"))
        }
        "ruby" => {
            let ruby = tools.ruby.as_deref().ok_or_else(|| missing(language, "ruby"))?;
            Ok((argv(ruby, ["/run/code/main.rb"]), "main.rb"))
        }
        "go" => {
            let go = tools
                .go
                .as_deref()
                .ok_or_else(|| missing(language, "golang-go"))?;
            let command = format!(
                "GOCACHE=/tmp/go-build exec {} run {CODE_DIR}/main.go",
                go.display()
            );
            Ok((argv(&tools.sh, ["-c", &command]), "main.go"))
        }
        other => Err(SandboxError::InvalidInput(format!(
            "language must be python, javascript, typescript, bash, ruby or go, not {other}"
        ))),
    }
}
