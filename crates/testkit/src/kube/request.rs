//! A request, taken apart as the real server takes it apart.

use super::kind::Kind;
use super::status::Target;
use axum::http::Method;
use std::collections::BTreeMap;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    pub(super) place: Place,
    pub(super) query: BTreeMap<String, String>,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Discovery, version, health: the path as it is.
    Other(String),
    /// Objects of a kind we do not serve: refused by rights, else 404.
    Unknown {
        group: String,
        resource: String,
        namespace: String,
        name: String,
    },
    Review,
    Objects {
        kind: Kind,
        namespace: String,
        name: String,
        /// `log`, `status`, `eviction` …
        sub: String,
    },
}

impl Call {
    pub(super) fn parse(method: &Method, path: &str, query: &str) -> Self {
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decoded(key), decoded(value))
            })
            .collect();
        let place = place(path);
        let on_one = match &place {
            Place::Objects { name, .. } | Place::Unknown { name, .. } => !name.is_empty(),
            _ => false,
        };
        let watching = matches!(query.get("watch").map(String::as_str), Some("true" | "1"));
        let verb = match method.as_str() {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if on_one => "delete",
            "DELETE" => "deletecollection",
            _ if watching => "watch",
            _ if on_one => "get",
            _ if matches!(place, Place::Other(_)) => "get",
            _ => "list",
        };
        Self { verb, place, query }
    }

    pub(super) fn query(&self, key: &str) -> &str {
        self.query.get(key).map(String::as_str).unwrap_or_default()
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        matches!(self.query(key), "true" | "1")
    }

    /// As rights and counters name it: `jobs`, `pods/log`, a path.
    pub(super) fn resource(&self) -> String {
        match &self.place {
            Place::Other(path) => path.clone(),
            Place::Review => "selfsubjectaccessreviews".to_owned(),
            Place::Unknown { resource, .. } => resource.clone(),
            Place::Objects { kind, sub, .. } if sub.is_empty() => kind.resource().to_owned(),
            Place::Objects { kind, sub, .. } => format!("{}/{sub}", kind.resource()),
        }
    }

    /// What rights are asked about; nothing for what everybody may read.
    pub(super) fn target(&self) -> Option<Target<'_>> {
        match &self.place {
            Place::Other(_) | Place::Review => None,
            Place::Unknown {
                group,
                resource,
                namespace,
                name,
            } => Some(Target {
                group,
                resource,
                sub: "",
                namespace,
                name,
            }),
            Place::Objects {
                kind,
                namespace,
                name,
                sub,
            } => Some(Target {
                group: kind.group(),
                resource: kind.resource(),
                sub,
                namespace,
                name,
            }),
        }
    }
}

fn place(path: &str) -> Place {
    let parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(decoded)
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] if !rest.is_empty() => ("", rest),
        ["apis", group, "v1", rest @ ..] if !rest.is_empty() => (*group, rest),
        _ => return Place::Other(path.to_owned()),
    };
    if group == "authorization.k8s.io" && rest == ["selfsubjectaccessreviews"] {
        return Place::Review;
    }
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let at = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    match Kind::of(group, &at(0)) {
        Some(kind) => Place::Objects {
            kind,
            namespace: namespace.to_owned(),
            name: at(1),
            sub: at(2),
        },
        None => Place::Unknown {
            group: group.to_owned(),
            resource: at(0),
            namespace: namespace.to_owned(),
            name: at(1),
        },
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let number = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(number.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
