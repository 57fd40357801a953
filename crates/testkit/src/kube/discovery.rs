//! What clients ask before anything else: version, groups, resources.

use super::kind::Kind;
use serde_json::{Value, json};

/// The answer to a path that is no object; nothing = 404.
pub(super) fn answer(path: &str) -> Option<Value> {
    let answer = match path.trim_end_matches('/') {
        "/version" => json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0-fake", "gitCommit": "0", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64",
        }),
        "/api" => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
        }),
        "/apis" => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": [group("batch"), group("authorization.k8s.io")],
        }),
        "/apis/batch" => group("batch"),
        "/apis/authorization.k8s.io" => group("authorization.k8s.io"),
        "/api/v1" => resources("v1", ""),
        "/apis/batch/v1" => resources("batch/v1", "batch"),
        "/apis/authorization.k8s.io/v1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "authorization.k8s.io/v1",
            "resources": [{
                "name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview", "namespaced": false,
                "kind": "SelfSubjectAccessReview", "verbs": ["create"],
            }],
        }),
        _ => return None,
    };
    Some(answer)
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version.clone()], "preferredVersion": version})
}

fn resources(version: &str, group: &str) -> Value {
    let verbs = json!(["create", "delete", "get", "list", "watch"]);
    let mut all: Vec<Value> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.group() == group)
        .map(|kind| {
            json!({
                "name": kind.resource(), "singularName": kind.name().to_lowercase(), "namespaced": true,
                "kind": kind.name(), "verbs": verbs, "shortNames": kind.short_names(),
            })
        })
        .collect();
    if group.is_empty() {
        all.push(json!({"name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"]}));
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": all})
}
