//! What a record says about the tool's end, in the words of the local sandbox.

use agent::ports::{SandboxError, WorkspaceError};
use toolbox::wire::{Ending, FailureClass, Record};

/// Shells tell the end by signal n as exit code 128 + n.
const SIGNALLED: i32 = 128;
const LAST_SIGNAL: i32 = 64;
/// Of the supervisor's texts: the same as those of file tools.
const LIMIT: &str = "Workspace limit exceeded";
const PATH: &str = "Invalid path: ";
const NO_DIR: &str = "working_dir ";

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    pub exit_code: Option<i32>,
    pub timed_out: bool,
    pub ended_by: Option<String>,
    pub warnings: Vec<String>,
}

impl Outcome {
    /// # Errors
    /// When the tool was not run, or what it left is not kept.
    pub(super) fn of(record: &Record) -> Result<Self, SandboxError> {
        let memory = || record.out_of_memory.map(|_| "out of memory".to_owned());
        let by_signal = |signal: i32| memory().unwrap_or_else(|| format!("killed by signal {signal}"));
        let mut outcome = Self {
            warnings: record.warnings.clone(),
            ..Self::default()
        };
        match &record.ending {
            Ending::Exited { code } => {
                let signalled = (SIGNALLED + 1..=SIGNALLED + LAST_SIGNAL).contains(code);
                outcome.exit_code = Some(*code);
                outcome.ended_by = match code {
                    0 => None,
                    code if signalled => Some(by_signal(code - SIGNALLED)),
                    _ => memory(),
                };
                if *code == 0 && record.out_of_memory.is_some() {
                    let warning = "a process of the tool was killed: out of memory";
                    outcome.warnings.push(warning.to_owned());
                }
            }
            Ending::Signalled { signal } => {
                outcome.exit_code = Some(SIGNALLED + signal.clamp(&1, &LAST_SIGNAL));
                outcome.ended_by = Some(by_signal(*signal));
            }
            Ending::TimedOut => {
                outcome.timed_out = true;
                outcome.ended_by = Some("time limit".to_owned());
            }
            Ending::Cancelled => outcome.ended_by = Some("cancelled".to_owned()),
            // It was ended for what it wrote.
            Ending::Failed { message, .. } if record.unkept.is_some() => {
                outcome.ended_by = Some(message.clone());
            }
            Ending::Failed { class, message } => return Err(failure(*class, message)),
        }
        Ok(outcome)
    }
}

fn failure(class: FailureClass, message: &str) -> SandboxError {
    let workspace = |error| SandboxError::Workspace(error);
    match class {
        FailureClass::Workspace if message == LIMIT => workspace(WorkspaceError::LimitExceeded),
        FailureClass::Workspace => match message.strip_prefix(PATH) {
            Some(path) => workspace(WorkspaceError::InvalidPath(path.to_owned())),
            None => workspace(WorkspaceError::Storage(message.to_owned())),
        },
        FailureClass::Configuration if message.starts_with(NO_DIR) => {
            SandboxError::InvalidInput(message.to_owned())
        }
        FailureClass::Configuration | FailureClass::Confinement => {
            SandboxError::Unavailable(message.to_owned())
        }
        FailureClass::Internal => SandboxError::Failed(message.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox::wire::{Durations, OutOfMemory, Stream, VERSION};

    fn record(ending: Ending, out_of_memory: Option<OutOfMemory>) -> Record {
        Record {
            version: VERSION,
            spec_hash: String::new(),
            job_uid: String::new(),
            ending,
            out_of_memory,
            durations: Durations::default(),
            stdout: Stream::default(),
            stderr: Stream::default(),
            delta: None,
            warnings: vec![],
            unkept: None,
        }
    }

    fn told(ending: Ending, memory: Option<OutOfMemory>) -> (Option<i32>, bool, Option<String>, usize) {
        let outcome = Outcome::of(&record(ending, memory)).unwrap();
        (
            outcome.exit_code,
            outcome.timed_out,
            outcome.ended_by,
            outcome.warnings.len(),
        )
    }

    #[test]
    fn ends_are_told_as_the_local_sandbox_tells_them() {
        let some = |text: &str| Some(text.to_owned());
        let (main, child) = (Some(OutOfMemory::Main), Some(OutOfMemory::Child));
        let exited = |code| Ending::Exited { code };
        assert_eq!(told(exited(0), None), (Some(0), false, None, 0));
        assert_eq!(told(exited(7), None), (Some(7), false, None, 0));
        assert_eq!(
            told(exited(139), None),
            (Some(139), false, some("killed by signal 11"), 0)
        );
        assert_eq!(told(exited(0), child), (Some(0), false, None, 1));
        assert_eq!(
            told(exited(137), child),
            (Some(137), false, some("out of memory"), 0)
        );
        assert_eq!(told(exited(1), child), (Some(1), false, some("out of memory"), 0));
        let killed = |signal| Ending::Signalled { signal };
        assert_eq!(
            told(killed(11), None),
            (Some(139), false, some("killed by signal 11"), 0)
        );
        assert_eq!(
            told(killed(9), main),
            (Some(137), false, some("out of memory"), 0)
        );
        assert_eq!(told(Ending::TimedOut, None), (None, true, some("time limit"), 0));
        assert_eq!(told(Ending::Cancelled, None), (None, false, some("cancelled"), 0));
    }

    #[test]
    fn failures_have_the_texts_and_the_kind_of_the_local_sandbox() {
        let failed = |class, message: &str| {
            let ending = Ending::Failed {
                class,
                message: message.to_owned(),
            };
            Outcome::of(&record(ending, None)).unwrap_err()
        };
        let limit = failed(FailureClass::Workspace, LIMIT);
        assert!(matches!(
            limit,
            SandboxError::Workspace(WorkspaceError::LimitExceeded)
        ));
        let path = failed(FailureClass::Workspace, "Invalid path: a\\b");
        assert_eq!(path.to_string(), "Invalid path: a\\b");
        let dir = failed(
            FailureClass::Configuration,
            "working_dir /workspace/x does not exist",
        );
        assert_eq!(
            dir.to_string(),
            "Invalid input: working_dir /workspace/x does not exist"
        );
        let text = "ruby is not available in the sandbox: install ruby";
        assert_eq!(failed(FailureClass::Configuration, text).to_string(), text);
        assert!(matches!(
            failed(FailureClass::Internal, "x"),
            SandboxError::Failed(_)
        ));
        let ending = Ending::Failed {
            class: FailureClass::Workspace,
            message: LIMIT.to_owned(),
        };
        let ran = Record {
            unkept: Some(LIMIT.to_owned()),
            ..record(ending, None)
        };
        assert_eq!(Outcome::of(&ran).unwrap().ended_by.as_deref(), Some(LIMIT));
    }
}
