//! What can go wrong with Redis, and whether trying again makes sense.

use fred::error::{Error as FredError, ErrorKind};

/// An error of a queue operation. `Display` does not print the source.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis is away, hanging, full or changing its master: the same call may succeed later.
    #[error("redis cannot be used for {operation} at the moment")]
    Unavailable {
        operation: &'static str,
        #[source]
        source: RedisFault,
    },
    /// Redis refused the command for good (wrong type of a key, no permission, broken script).
    #[error("redis refused {operation}")]
    Refused {
        operation: &'static str,
        #[source]
        source: RedisFault,
    },
    /// An answer of another form than the command gives.
    #[error("unexpected answer of redis to {operation}")]
    Unexpected { operation: &'static str },
    /// The settings cannot be used; the texts name them.
    #[error("redis settings cannot be used: {}", .0.join(", "))]
    Settings(Vec<String>),
}

impl QueueError {
    /// True when the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn of(operation: &'static str, source: FredError) -> Self {
        let source = RedisFault::from(source);
        if source.transient {
            Self::Unavailable { operation, source }
        } else {
            Self::Refused { operation, source }
        }
    }
}

/// What the client library or the server said.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct RedisFault {
    text: String,
    transient: bool,
}

/// Error codes of a server that is loading, failing over, out of memory or busy.
const TRANSIENT_CODES: [&str; 13] = [
    "READONLY",
    "LOADING",
    "OOM",
    "NOSCRIPT",
    "UNBLOCKED",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "MOVED",
    "ASK",
];

fn is_transient(error: &FredError) -> bool {
    match error.kind() {
        ErrorKind::IO
        | ErrorKind::Auth
        | ErrorKind::Canceled
        | ErrorKind::Timeout
        | ErrorKind::Routing
        | ErrorKind::Cluster
        | ErrorKind::Sentinel
        | ErrorKind::Tls
        | ErrorKind::Protocol
        | ErrorKind::Backpressure => true,
        _ => has_transient_code(error.details()),
    }
}

fn has_transient_code(details: &str) -> bool {
    // An error raised inside a script has the code in front too ("OOM command not allowed … script: …").
    TRANSIENT_CODES.iter().any(|code| {
        details
            .strip_prefix(code)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    })
}

/// The server forgot the script (restart, failover, SCRIPT FLUSH).
pub(crate) fn is_noscript(error: &FredError) -> bool {
    error.details().starts_with("NOSCRIPT")
}

impl From<FredError> for RedisFault {
    fn from(error: FredError) -> Self {
        Self {
            text: error.to_string(),
            transient: is_transient(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient(kind: ErrorKind, text: &'static str) -> bool {
        QueueError::of("test", FredError::new(kind, text)).is_unavailable()
    }

    #[test]
    fn a_server_in_trouble_is_tried_again_and_a_wrong_command_is_not() {
        for text in [
            "READONLY You can't write against a read only replica.",
            "LOADING Redis is loading the dataset in memory",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "UNBLOCKED force unblock from blocking operation",
            "NOSCRIPT No matching script.",
        ] {
            assert!(transient(ErrorKind::Unknown, text), "{text}");
        }
        assert!(transient(ErrorKind::IO, "gone"));
        assert!(transient(ErrorKind::Timeout, "late"));
        assert!(!transient(
            ErrorKind::Unknown,
            "WRONGTYPE Operation against a key"
        ));
        assert!(!transient(ErrorKind::Unknown, "BUSYGROUP exists"));
    }
}
