//! Kinds of others (operators, kustomize): the fields that we use, as their documentation has them, with the type of each.

use serde_json::Value;

/// Types of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Text,
    Number,
    Bool,
    /// Names of our own choice, each with a text.
    Texts,
}

/// A field by its path, without the places in lists, and its type.
pub(crate) type Table = &'static [(&'static str, Type)];

use Type::{Bool, Number, Text, Texts};

/// `monitoring.coreos.com/v1`
const SERVICE_MONITOR: Table = &[
    ("/spec/selector/matchLabels", Texts),
    ("/spec/namespaceSelector/matchNames", Text),
    ("/spec/endpoints/port", Text),
    ("/spec/endpoints/path", Text),
    ("/spec/endpoints/interval", Text),
];

/// `monitoring.coreos.com/v1`
const PROMETHEUS_RULE: Table = &[
    ("/spec/groups/name", Text),
    ("/spec/groups/rules/alert", Text),
    ("/spec/groups/rules/expr", Text),
    ("/spec/groups/rules/for", Text),
    ("/spec/groups/rules/labels", Texts),
    ("/spec/groups/rules/annotations", Texts),
];

/// `keda.sh/v1alpha1`, 2.17
const SCALED_OBJECT: Table = &[
    ("/spec/scaleTargetRef/apiVersion", Text),
    ("/spec/scaleTargetRef/kind", Text),
    ("/spec/scaleTargetRef/name", Text),
    ("/spec/minReplicaCount", Number),
    ("/spec/maxReplicaCount", Number),
    ("/spec/pollingInterval", Number),
    ("/spec/cooldownPeriod", Number),
    ("/spec/fallback/failureThreshold", Number),
    ("/spec/fallback/replicas", Number),
    ("/spec/fallback/behavior", Text),
    ("/spec/advanced/horizontalPodAutoscalerConfig/name", Text),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/stabilizationWindowSeconds",
        Number,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/selectPolicy",
        Text,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/policies/type",
        Text,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/policies/value",
        Number,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleUp/policies/periodSeconds",
        Number,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/stabilizationWindowSeconds",
        Number,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/policies/type",
        Text,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/policies/value",
        Number,
    ),
    (
        "/spec/advanced/horizontalPodAutoscalerConfig/behavior/scaleDown/policies/periodSeconds",
        Number,
    ),
    ("/spec/triggers/type", Text),
    ("/spec/triggers/name", Text),
    // All values of a trigger are texts, numbers too.
    ("/spec/triggers/metadata/serverAddress", Text),
    ("/spec/triggers/metadata/query", Text),
    ("/spec/triggers/metadata/threshold", Text),
    ("/spec/triggers/metadata/ignoreNullValues", Text),
];

/// `kustomize.config.k8s.io/v1beta1`
pub(crate) const KUSTOMIZATION: Table = &[
    ("/namespace", Text),
    ("/resources", Text),
    ("/configurations", Text),
    ("/images/name", Text),
    ("/images/newName", Text),
    ("/images/newTag", Text),
    ("/patches/path", Text),
    ("/configMapGenerator/name", Text),
    ("/configMapGenerator/files", Text),
    ("/generatorOptions/disableNameSuffixHash", Bool),
    ("/generatorOptions/labels", Texts),
];

/// What every object has.
const COMMON: Table = &[
    ("/apiVersion", Text),
    ("/kind", Text),
    ("/metadata/name", Text),
    ("/metadata/namespace", Text),
    ("/metadata/labels", Texts),
    ("/metadata/annotations", Texts),
];

/// The table of a kind.
pub(crate) fn of(kind: &str) -> Option<Table> {
    match kind {
        "ServiceMonitor" => Some(SERVICE_MONITOR),
        "PrometheusRule" => Some(PROMETHEUS_RULE),
        "ScaledObject" => Some(SCALED_OBJECT),
        _ => None,
    }
}

/// Fields that are in neither table, or are of another type.
pub(crate) fn unknown(content: &Value, table: Table) -> Vec<String> {
    let mut found = Vec::new();
    walk(content, table, "", &mut found);
    found
}

fn walk(value: &Value, table: Table, path: &str, found: &mut Vec<String>) {
    let listed = table.iter().chain(COMMON).find(|(known, _)| *known == path);
    if let Some((_, wanted)) = listed {
        check(value, *wanted, path, found);
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(value, table, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(entries) => {
            for entry in entries {
                walk(entry, table, path, found);
            }
        }
        _ => found.push(format!("{path} is unknown")),
    }
}

fn check(value: &Value, wanted: Type, path: &str, found: &mut Vec<String>) {
    if let Value::Array(entries) = value {
        for entry in entries {
            check(entry, wanted, path, found);
        }
        return;
    }
    let good = match wanted {
        Text => value.is_string(),
        Number => value.is_u64(),
        Bool => value.is_boolean(),
        Texts => value
            .as_object()
            .is_some_and(|fields| fields.values().all(Value::is_string)),
    };
    if !good {
        let name = match wanted {
            Text => "text",
            Number => "number",
            Bool => "yes or no",
            Texts => "set of texts",
        };
        found.push(format!("{path} is no {name}"));
    }
}
