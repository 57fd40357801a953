//! The operations of an OpenAPI document, with references followed.

use super::Finding;
use crate::routes::runtime::table::Operation;
use serde_yaml_ng::{Mapping, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const LABEL: &str = "openapi";
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
/// References that lead to references; a document that goes in circles ends here.
const MAX_HOPS: usize = 8;

/// A parameter as it is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Parameter {
    name: String,
    place: String,
    required: bool,
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flag = if self.required { "required" } else { "optional" };
        write!(f, "{} ({}, {flag})", self.name, self.place)
    }
}

/// What is compared of one operation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    statuses: BTreeSet<String>,
    parameters: BTreeSet<Parameter>,
}

/// By `METHOD /path`.
type Operations = BTreeMap<String, Described>;

/// Both directions; the faults of the document itself come first.
pub(super) fn compare(served: &[Operation], text: &str) -> Vec<Finding> {
    let mut document = match serde_yaml_ng::from_str(text) {
        Ok(root) => Document { root, faults: vec![] },
        Err(error) => return vec![finding(format!("is not YAML: {error}"))],
    };
    let described = document.operations();
    let served: Operations = served.iter().map(of_served).collect();
    let mut texts = document.faults;
    for (name, own) in &served {
        match described.get(name) {
            None => texts.push(format!("missing route operation in OpenAPI: {name}")),
            Some(told) => texts.extend(differences(name, own, told)),
        }
    }
    let unknown = described.keys().filter(|name| !served.contains_key(*name));
    texts.extend(unknown.map(|name| format!("OpenAPI operation not implemented in router: {name}")));
    texts.into_iter().map(finding).collect()
}

fn finding(text: String) -> Finding {
    Finding { label: LABEL, text }
}

fn of_served(operation: &Operation) -> (String, Described) {
    let parameter = |name: &str, place: &str, required| Parameter {
        name: name.to_owned(),
        place: place.to_owned(),
        required,
    };
    let path = operation
        .path_parameters()
        .map(|name| parameter(name, "path", true));
    let query = operation
        .query
        .iter()
        .map(|query| parameter(query.name, "query", query.required));
    let described = Described {
        statuses: operation.statuses.iter().map(ToString::to_string).collect(),
        parameters: path.chain(query).collect(),
    };
    (format!("{} {}", operation.method, operation.path), described)
}

fn differences(name: &str, served: &Described, told: &Described) -> Vec<String> {
    let mut texts = vec![];
    let missing = |what: String| format!("{name}: {what} is served and missing in OpenAPI");
    let extra = |what: String| format!("{name}: {what} is in OpenAPI and not served");
    let status = |status: &String| format!("status {status}");
    let parameter = |parameter: &Parameter| format!("parameter {parameter}");
    texts.extend(
        served
            .statuses
            .difference(&told.statuses)
            .map(status)
            .map(missing),
    );
    texts.extend(told.statuses.difference(&served.statuses).map(status).map(extra));
    texts.extend(
        served
            .parameters
            .difference(&told.parameters)
            .map(parameter)
            .map(missing),
    );
    texts.extend(
        told.parameters
            .difference(&served.parameters)
            .map(parameter)
            .map(extra),
    );
    texts
}

struct Document {
    root: Value,
    faults: Vec<String>,
}

impl Document {
    fn operations(&mut self) -> Operations {
        let Some(paths) = self.root.get("paths").and_then(Value::as_mapping).cloned() else {
            self.faults.push("has no paths".to_owned());
            return Operations::default();
        };
        let mut operations = Operations::default();
        for (path, item) in &paths {
            let path = path.as_str().unwrap_or_default();
            let Some(item) = self
                .resolved(item, path)
                .and_then(|item| item.as_mapping().cloned())
            else {
                self.faults.push(format!("path {path} is no object"));
                continue;
            };
            let shared = self.parameters(&item, path);
            for method in METHODS {
                if let Some(operation) = item.get(method) {
                    let name = format!("{} {path}", method.to_uppercase());
                    let described = self.described(operation, &name, &shared);
                    operations.insert(name, described);
                }
            }
        }
        operations
    }

    fn described(&mut self, operation: &Value, name: &str, shared: &BTreeSet<Parameter>) -> Described {
        let Some(operation) = operation.as_mapping() else {
            self.faults.push(format!("{name} is no object"));
            return Described::default();
        };
        let mut parameters = self.parameters(operation, name);
        // An operation's own parameter stands for one of the path with the same name and place.
        let own: BTreeSet<_> = parameters
            .iter()
            .map(|own| (own.name.clone(), own.place.clone()))
            .collect();
        let inherited = shared
            .iter()
            .filter(|one| !own.contains(&(one.name.clone(), one.place.clone())));
        parameters.extend(inherited.cloned());
        let responses = operation
            .get("responses")
            .and_then(Value::as_mapping)
            .cloned()
            .unwrap_or_default();
        for response in responses.values() {
            self.resolved(response, name);
        }
        Described {
            statuses: responses.keys().map(key).collect(),
            parameters,
        }
    }

    fn parameters(&mut self, of: &Mapping, place: &str) -> BTreeSet<Parameter> {
        let list = of
            .get("parameters")
            .and_then(Value::as_sequence)
            .cloned()
            .unwrap_or_default();
        let read = |parameter: &Value| {
            let parameter = self.resolved(parameter, place)?;
            let text = |name: &str| Some(parameter.get(name)?.as_str()?.to_owned());
            let read = Parameter {
                name: text("name")?,
                place: text("in")?,
                required: parameter
                    .get("required")
                    .and_then(Value::as_bool)
                    .unwrap_or(false),
            };
            Some(read)
        };
        list.iter().filter_map(read).collect()
    }

    /// The value, or what its `$ref` leads to.
    fn resolved(&mut self, value: &Value, place: &str) -> Option<Value> {
        let mut value = value.clone();
        for _ in 0..MAX_HOPS {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Some(value);
            };
            let Some(next) = self.at(reference) else {
                break;
            };
            value = next;
        }
        let reference = value.get("$ref").and_then(Value::as_str).unwrap_or_default();
        self.faults.push(format!("{place}: cannot resolve {reference}"));
        None
    }

    /// Inside this document only.
    fn at(&self, reference: &str) -> Option<Value> {
        let parts = reference.strip_prefix("#/")?.split('/');
        let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
        let found = parts
            .map(unescape)
            .try_fold(&self.root, |at, part| at.get(part.as_str()));
        found.cloned()
    }
}

/// A status written as text or as a number.
fn key(key: &Value) -> String {
    match key {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}
