//! The PodSecurity standard `restricted`, as far as our manifests can break it.

use serde_json::Value;

const LEVEL: &str = "restricted:latest";
/// Kinds of volumes that `restricted` admits.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
];

/// `would violate …` or `violates …` follow this; nothing when the pod is fine. `more` is a fault told by a test.
pub(super) fn violations(spec: &Value, more: Option<&str>) -> Option<String> {
    let mut found = Vec::new();
    host(spec, &mut found);
    each_container(
        spec,
        "allowPrivilegeEscalation != false",
        "must set securityContext.allowPrivilegeEscalation=false",
        |one, _| one["securityContext"]["allowPrivilegeEscalation"] == false,
        &mut found,
    );
    each_container(
        spec,
        "unrestricted capabilities",
        "must set securityContext.capabilities.drop=[\"ALL\"]",
        |one, _| {
            let dropped = one["securityContext"]["capabilities"]["drop"].as_array();
            dropped.is_some_and(|all| all.iter().any(|name| name == "ALL"))
        },
        &mut found,
    );
    each_container(
        spec,
        "runAsNonRoot != true",
        "must set securityContext.runAsNonRoot=true",
        |one, pod| either(one, pod, "runAsNonRoot", |value| value == true),
        &mut found,
    );
    each_container(
        spec,
        "seccompProfile",
        "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        |one, pod| {
            either(one, pod, "seccompProfile", |value| {
                value["type"] == "RuntimeDefault" || value["type"] == "Localhost"
            })
        },
        &mut found,
    );
    found.extend(more.map(str::to_owned));
    (!found.is_empty()).then(|| format!("PodSecurity \"{LEVEL}\": {}", found.join(", ")))
}

fn host(spec: &Value, found: &mut Vec<String>) {
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[name] == true {
            found.push(format!("host namespaces ({name}=true)"));
        }
    }
    for one in containers(spec).filter(|one| one["securityContext"]["privileged"] == true) {
        found.push(format!(
            "privileged (container {} must not set securityContext.privileged=true)",
            one["name"]
        ));
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kind = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .find(|name| *name != "name" && *name != "secret" && !VOLUMES.contains(name));
        if let Some(kind) = kind {
            found.push(format!(
                "restricted volume types (volume {} uses restricted volume type \"{kind}\")",
                volume["name"]
            ));
        }
    }
    for one in containers(spec).filter(|one| one["securityContext"]["runAsUser"] == 0) {
        found.push(format!(
            "runAsUser=0 (container {} must not set runAsUser=0)",
            one["name"]
        ));
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"].into_iter();
    lists.flat_map(|list| spec[list].as_array().into_iter().flatten())
}

/// A setting of the container, or of the pod where the container has none.
fn either(one: &Value, pod: &Value, field: &str, holds: impl Fn(&Value) -> bool) -> bool {
    let own = &one["securityContext"][field];
    holds(if own.is_null() {
        &pod["securityContext"][field]
    } else {
        own
    })
}

fn each_container(
    spec: &Value,
    rule: &str,
    advice: &str,
    holds: impl Fn(&Value, &Value) -> bool,
    found: &mut Vec<String>,
) {
    let bad: Vec<String> = containers(spec)
        .filter(|one| !holds(one, spec))
        .map(|one| one["name"].to_string())
        .collect();
    if bad.is_empty() {
        return;
    }
    let noun = if bad.len() == 1 { "container" } else { "containers" };
    let of_pod = if advice.contains("runAsNonRoot") || advice.contains("seccomp") {
        "pod or "
    } else {
        ""
    };
    found.push(format!("{rule} ({of_pod}{noun} {} {advice})", bad.join(", ")));
}
