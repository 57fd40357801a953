//! Who may do what: the worker's token has the rights of the Role in `k8s/rbac.yaml`, read from there.

use super::status::{Status, Target};
use serde_json::{Value, json};
use std::path::Path;

/// The user of the worker's token.
pub(super) const WORKER: &str = "system:serviceaccount:agents:agent-api-sa";

/// One line of a Role.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// A Role in one namespace.
#[derive(Debug, Clone)]
pub(super) struct Role {
    namespace: String,
    rules: Vec<Rule>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    /// May do all.
    Admin,
    Worker,
}

impl Role {
    /// Reads the first Role of a manifest.
    pub(super) fn read(path: &Path) -> Self {
        let documents = manifest(path);
        let role = documents.iter().find(|document| document["kind"] == "Role");
        let role = role.unwrap_or_else(|| panic!("{} has no Role", path.display()));
        let texts = |value: &Value| -> Vec<String> {
            let all = value.as_array().into_iter().flatten();
            all.filter_map(|one| Some(one.as_str()?.to_owned())).collect()
        };
        let rules = role["rules"].as_array().into_iter().flatten();
        Self {
            namespace: super::object::namespace(role).to_owned(),
            rules: rules
                .map(|rule| Rule {
                    groups: texts(&rule["apiGroups"]),
                    resources: texts(&rule["resources"]),
                    verbs: texts(&rule["verbs"]),
                })
                .collect(),
        }
    }

    /// Takes one right away; `resource` may be `pods/log`.
    pub(super) fn revoke(&mut self, verb: &str, resource: &str) {
        let split = std::mem::take(&mut self.rules).into_iter().flat_map(|rule| {
            let one = |name: &String| Rule {
                resources: vec![name.clone()],
                ..rule.clone()
            };
            rule.resources.iter().map(one).collect::<Vec<_>>()
        });
        self.rules = split.collect();
        for rule in &mut self.rules {
            if rule.resources.iter().any(|name| name == resource) {
                rule.verbs.retain(|name| name != verb);
            }
        }
    }

    fn allows(&self, verb: &str, target: &Target<'_>) -> bool {
        let has = |all: &[String], one: &str| all.iter().any(|name| name == one || name == "*");
        target.namespace == self.namespace
            && self.rules.iter().any(|rule| {
                has(&rule.groups, target.group)
                    && has(&rule.resources, &target.full_resource())
                    && has(&rule.verbs, verb)
            })
    }

    pub(super) fn check(&self, user: User, verb: &str, target: &Target<'_>) -> Result<(), Status> {
        if user == User::Admin || self.allows(verb, target) {
            return Ok(());
        }
        Err(Status::no_right(WORKER, verb, target))
    }

    /// Answers a `SelfSubjectAccessReview`.
    pub(super) fn review(&self, user: User, asked: &Value) -> Value {
        let attributes = &asked["spec"]["resourceAttributes"];
        let text = |name: &str| attributes[name].as_str().unwrap_or_default();
        let (resource, sub) = match text("resource").split_once('/') {
            Some(split) => split,
            None => (text("resource"), text("subresource")),
        };
        let target = Target {
            group: text("group"),
            resource,
            sub,
            namespace: text("namespace"),
            name: text("name"),
        };
        let allowed = user == User::Admin || self.allows(text("verb"), &target);
        let mut answer = json!({
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "metadata": {"creationTimestamp": null}, "spec": asked["spec"], "status": {"allowed": allowed},
        });
        if allowed {
            answer["status"]["reason"] =
                "RBAC: allowed by RoleBinding \"agent-api-job-spawner/agent-tools\"".into();
        }
        answer
    }
}

/// All documents of a YAML file.
pub(super) fn manifest(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let read = |document| serde::Deserialize::deserialize(document);
    documents
        .map(|document| read(document).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}
