//! What an answer of the API server means.

use bytes::Bytes;
use kube::core::Status;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// An answer with what its headers say.
#[derive(Debug, Clone)]
pub struct Answer {
    pub body: Bytes,
    /// Texts of `Warning` headers.
    pub warnings: Vec<String>,
    /// The server's clock.
    pub date: Option<String>,
}

/// Why the API server did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// 403 with the quota's own words.
    #[error("{0}")]
    Quota(String),
    /// Too busy, or the quota was being counted: nothing was done.
    #[error("{message}")]
    Busy {
        message: String,
        after: Option<Duration>,
    },
    #[error("{0}")]
    AlreadyExists(String),
    #[error("not found")]
    NotFound,
    /// The object is another one than meant.
    #[error("{0}")]
    Conflict(String),
    /// A missing right, or a refusal of admission.
    #[error("{0}")]
    Forbidden(String),
    /// It would never be taken.
    #[error("{0}")]
    Invalid(String),
    /// No answer, or one that says nothing of what was done.
    #[error("the API server does not answer: {0}")]
    Away(String),
}

/// Another object of this name is not ours to delete, and ours is gone.
pub(super) fn gone_is_fine(deleted: Result<Answer, CallError>) -> Result<(), CallError> {
    match deleted {
        Ok(_) | Err(CallError::NotFound | CallError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body)
        .map_err(|error| CallError::Away(format!("its answer cannot be read: {error}")))
}

pub(super) fn status_of(body: &[u8], code: u16) -> Status {
    let parsed = serde_json::from_slice::<Status>(body);
    let mut status = parsed.unwrap_or_else(|_| Status::failure(&String::from_utf8_lossy(body), ""));
    status.code = code;
    status
}

/// What a refusal means.
pub(super) fn judge(status: &Status, after: Option<Duration>) -> CallError {
    let message = status.message.clone();
    let quota_counted = || {
        let kind = status.details.as_ref().map(|details| details.kind.as_str());
        kind == Some("resourcequotas") || message.contains("resourcequotas")
    };
    match status.code {
        403 if message.contains("exceeded quota") => CallError::Quota(message),
        401 | 403 => CallError::Forbidden(message),
        404 => CallError::NotFound,
        409 if status.is_already_exists() => CallError::AlreadyExists(message),
        409 if quota_counted() => CallError::Busy { message, after },
        409 => CallError::Conflict(message),
        429 => CallError::Busy { message, after },
        500 if message.contains("resource quota evaluation timed out") => CallError::Busy { message, after },
        400 | 405 | 413 | 415 | 422 => CallError::Invalid(message),
        code => CallError::Away(format!("{code} {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(status: serde_json::Value) -> CallError {
        let code = status["code"].as_u64().unwrap() as u16;
        judge(&status_of(status.to_string().as_bytes(), code), None)
    }

    #[test]
    fn each_refusal_is_told_from_the_others() {
        let quota = json!({"code": 403, "reason": "Forbidden", "message": "jobs.batch \"a\" is forbidden: exceeded quota: q"});
        assert!(matches!(judged(quota), CallError::Quota(_)));
        let right =
            json!({"code": 403, "reason": "Forbidden", "message": "User cannot create resource \"jobs\""});
        assert!(matches!(judged(right), CallError::Forbidden(_)));
        let exists =
            json!({"code": 409, "reason": "AlreadyExists", "message": "jobs.batch \"a\" already exists"});
        assert!(matches!(judged(exists), CallError::AlreadyExists(_)));
        let counted = json!({"code": 409, "reason": "Conflict", "message": "Operation cannot be fulfilled on resourcequotas \"q\"",
            "details": {"kind": "resourcequotas"}});
        assert!(matches!(judged(counted), CallError::Busy { .. }));
        let other = json!({"code": 409, "reason": "Conflict", "message": "the UID in the precondition does not match"});
        assert!(matches!(judged(other), CallError::Conflict(_)));
        let slow =
            json!({"code": 500, "message": "Internal error occurred: resource quota evaluation timed out"});
        assert!(matches!(judged(slow), CallError::Busy { .. }));
        for code in [500, 503, 504] {
            assert!(matches!(
                judged(json!({"code": code, "message": "x"})),
                CallError::Away(_)
            ));
        }
        assert!(matches!(
            judged(json!({"code": 422, "message": "x"})),
            CallError::Invalid(_)
        ));
        assert_eq!(judged(json!({"code": 404, "message": "x"})), CallError::NotFound);
    }

    #[test]
    fn an_answer_that_is_no_status_is_still_judged_by_its_code() {
        assert!(matches!(
            judge(&status_of(b"<html>", 503), None),
            CallError::Away(_)
        ));
        let busy = judge(&status_of(b"", 429), Some(Duration::from_secs(1)));
        assert!(matches!(busy, CallError::Busy { after: Some(_), .. }));
    }
}
