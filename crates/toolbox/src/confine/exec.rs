//! The hidden command of our programs that confines itself and becomes the tool: `PROGRAM confined-exec POLICY -- ARGV…`.

use super::{ConfineError, Policy, enter};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// First argument. Looked for before anything else is done, in particular before a second thread is started.
pub const VERB: &str = "confined-exec";
/// Exit code when the tool was not started; [`Mark`] tells it from the same code of a tool.
const NOT_STARTED: u8 = 125;
const CONFINED: &str = "confined";
const REFUSED: &str = "refused ";
const NOT_EXECUTED: &str = "not executed ";

/// How far the start of a tool came, read from the file that [`Policy::mark`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The process ended or was ended before it was confined.
    NotReached,
    /// The process could not be confined; the tool was not started.
    Refused(String),
    /// Confined, but there is no such program, or it cannot be executed.
    NotExecuted(String),
    /// The tool was started, confined.
    Started,
}

impl Mark {
    /// Reads what was left in the file.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let last = text.lines().last().unwrap_or_default();
        if let Some(reason) = last.strip_prefix(REFUSED) {
            return Self::Refused(reason.to_owned());
        }
        if let Some(reason) = last.strip_prefix(NOT_EXECUTED) {
            return Self::NotExecuted(reason.to_owned());
        }
        if last == CONFINED {
            Self::Started
        } else {
            Self::NotReached
        }
    }
}

/// Becomes the tool: `arguments` are those after [`VERB`]. Returns only when that failed, with the exit code to end with.
pub fn exec(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let policy = arguments.next().and_then(|text| text.into_string().ok());
    let policy = policy.and_then(|text| serde_json::from_str::<Policy>(&text).ok());
    let argv: Vec<OsString> = arguments.skip_while(|argument| argument == "--").collect();
    let (Some(policy), [program, rest @ ..]) = (policy, argv.as_slice()) else {
        return fail(None, REFUSED, &"the command line of a confined program is wrong");
    };
    // From here on no file of ours is open but the mark, which is closed by the execution.
    if let Err(error) = close_inherited() {
        return fail(None, REFUSED, &ConfineError::Open(error));
    }
    let mut mark = match policy.mark.as_ref().map(File::create).transpose() {
        Ok(mark) => mark,
        Err(error) => return fail(None, REFUSED, &ConfineError::Open(error)),
    };
    let entered = enter(&policy).and_then(|()| match &mut mark {
        Some(mark) => Ok(writeln!(mark, "{CONFINED}")?),
        None => Ok(()),
    });
    if let Err(error) = entered {
        return fail(mark, REFUSED, &error);
    }
    let error = Command::new(program).args(rest).exec();
    fail(mark, NOT_EXECUTED, &error)
}

fn fail(mark: Option<File>, what: &str, reason: &dyn std::fmt::Display) -> ExitCode {
    // Nothing is left to do when neither can be written.
    if let Some(mut mark) = mark {
        writeln!(mark, "{what}{reason}").unwrap_or_default();
    }
    writeln!(io::stderr(), "the program was {what}: {reason}").unwrap_or_default();
    ExitCode::from(NOT_STARTED)
}

/// Closes everything but standard input, output and error.
fn close_inherited() -> io::Result<()> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The listing itself was one of them and is closed already.
        match nix::unistd::close(fd) {
            Ok(()) | Err(nix::errno::Errno::EBADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Mark;

    #[test]
    fn the_mark_tells_how_far_the_start_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        assert_eq!(Mark::read(&path), Mark::NotReached);
        for (text, told) in [
            ("", Mark::NotReached),
            ("confined\n", Mark::Started),
            ("refused no Landlock\n", Mark::Refused("no Landlock".to_owned())),
            (
                "confined\nnot executed no such file\n",
                Mark::NotExecuted("no such file".to_owned()),
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Mark::read(&path), told, "{text}");
        }
    }
}
