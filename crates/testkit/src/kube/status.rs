//! `Status` objects, worded as the real server words them.

use super::kind::{Kind, qualified};
use serde_json::{Value, json};

/// An answer that is no object.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Boxed: an error is passed on by value in many places.
    pub(super) details: Box<Value>,
    /// Seconds of the `Retry-After` header.
    pub retry_after: Option<u32>,
}

impl Status {
    /// One without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Box::new(Value::Null),
            retry_after: None,
        }
    }

    /// The same with a `Retry-After` header.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self.details = Box::new(json!({"retryAfterSeconds": seconds}));
        self
    }

    fn about(mut self, kind: Kind, name: &str) -> Self {
        let mut details = json!({"name": name, "kind": kind.resource()});
        if !kind.group().is_empty() {
            details["group"] = kind.group().into();
        }
        self.details = Box::new(details);
        self
    }

    pub(super) fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "reason": self.reason,
        });
        if !self.details.is_null() {
            body["details"] = *self.details.clone();
        }
        body["code"] = self.code.into();
        body
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(super) fn not_found(kind: Kind, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", kind.qualified()),
        )
        .about(kind, name)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub(super) fn no_namespace(name: &str) -> Self {
        let mut status = Self::new(404, "NotFound", format!("namespaces \"{name}\" not found"));
        status.details = Box::new(json!({"name": name, "kind": "namespaces"}));
        status
    }

    pub(super) fn already_exists(kind: Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(super) fn being_deleted(kind: Kind, name: &str) -> Self {
        let message = format!(
            "object is being deleted: {} \"{name}\" already exists",
            kind.qualified()
        );
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(super) fn wrong_uid(kind: Kind, name: &str, asked: &str, found: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the UID in the precondition ({asked}) does not match the UID in \
             record ({found}). The object might have been deleted and then recreated",
            kind.qualified()
        );
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// Refused by an admission plugin; `why` follows the colon.
    pub(super) fn forbidden(kind: Kind, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// Causes are (field, reason, message).
    pub(super) fn invalid(kind: Kind, name: &str, causes: &[(String, &'static str, String)]) -> Self {
        let mut texts: Vec<String> = causes
            .iter()
            .map(|(field, _, message)| format!("{field}: {message}"))
            .collect();
        let text = if texts.len() == 1 {
            texts.remove(0)
        } else {
            format!("[{}]", texts.join(", "))
        };
        let message = format!("{} \"{name}\" is invalid: {text}", kind.qualified_name());
        let mut status = Self::new(422, "Invalid", message);
        let causes: Vec<Value> = causes
            .iter()
            .map(|(field, reason, message)| json!({"reason": reason, "message": message, "field": field}))
            .collect();
        status.details =
            Box::new(json!({"name": name, "group": kind.group(), "kind": kind.name(), "causes": causes}));
        status
    }

    /// Missing rights of a user.
    pub(super) fn no_right(user: &str, verb: &str, target: &Target<'_>) -> Self {
        let what = qualified(target.resource, target.group);
        let subject = if target.name.is_empty() {
            format!("{what} is forbidden")
        } else {
            format!("{what} \"{}\" is forbidden", target.name)
        };
        let place = match target.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let message = format!(
            "{subject}: User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            target.full_resource(),
            target.group
        );
        let mut status = Self::new(403, "Forbidden", message);
        status.details =
            Box::new(json!({"name": target.name, "group": target.group, "kind": target.resource}));
        status
    }

    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// 409 of the quota's own update.
    pub fn quota_conflict(quota: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on resourcequotas \"{quota}\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        Self::new(409, "Conflict", message).about(Kind::Quota, quota)
    }

    /// 500 of a quota that could not be computed in time.
    pub fn quota_timeout() -> Self {
        let message = "Internal error occurred: resource quota evaluation timed out";
        Self::new(500, "InternalError", message)
    }

    /// 504 of a request that ran out of its time; the write may have been done.
    pub fn timeout() -> Self {
        let message = "Timeout: request did not complete within the allotted timeout";
        Self::new(504, "Timeout", message)
    }

    /// 503 of a server that is coming up or going down.
    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "apiserver not ready")
    }

    /// 429 of a server with too much to do.
    pub fn too_many_requests(seconds: u32) -> Self {
        let message = "Too many requests, please try again later.";
        Self::new(429, "TooManyRequests", message).after(seconds)
    }

    /// 410 of a version that is no longer known.
    pub fn gone() -> Self {
        let message = "The resourceVersion for the provided watch is too old.";
        Self::new(410, "Expired", message)
    }
}

/// What a right is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) group: &'a str,
    pub(super) resource: &'a str,
    pub(super) sub: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl Target<'_> {
    /// `pods/log`
    pub(super) fn full_resource(&self) -> String {
        if self.sub.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.sub)
        }
    }
}
