//! What a command says when it cannot do its work: what happened, why, what to do, and the exit code.

use std::fmt;

/// Exit codes of `agentctl`; the numbers are part of `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    /// The work was done and did not succeed, or could not be done.
    Failed = 1,
    /// Wrong command line.
    Usage = 2,
    /// The run waits for its user.
    Waiting = 3,
    /// The system does not answer.
    Unreachable = 4,
    /// The token is missing or refused.
    Auth = 5,
    /// Ctrl-C.
    Interrupted = 130,
}

/// An unsuccessful end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Empty: nothing is printed, only the code counts.
    pub what: String,
    pub why: Option<String>,
    pub fix: Option<String>,
    pub code: Code,
}

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: None,
            fix: None,
            code: Code::Failed,
        }
    }

    /// Ends with this code and prints nothing more.
    pub fn silent(code: Code) -> Self {
        Self {
            code,
            ..Self::new("")
        }
    }

    /// The cause, with the causes of the cause.
    #[must_use]
    pub fn why(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.why = Some(chain(error));
        self
    }

    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }
}

/// An error and its sources as one line; a source whose text the outer one already shows is left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "\n  {fix}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Standard output went away (`| head`): a quiet end. Any other fault of writing is told.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(Code::Ok);
        }
        Self::new("reading or writing failed").why(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new("cannot reach the API")
            .because("connection refused")
            .fix("start it with `agentctl up`");
        assert_eq!(
            failure.to_string(),
            "cannot reach the API: connection refused\n  start it with `agentctl up`"
        );
    }
}
