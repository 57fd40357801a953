//! Kinds of Kubernetes itself: an object is read into the type of its kind and written again. What got lost was unknown.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Error, Value};

fn through<T: DeserializeOwned + Serialize>(content: &Value) -> Result<Value, Error> {
    serde_json::to_value(serde_json::from_value::<T>(content.clone())?)
}

/// The object as its type understands it; nothing for kinds that are not of Kubernetes.
pub(crate) fn read_back(content: &Value) -> Option<Result<Value, Error>> {
    let text = |name: &str| content.get(name).and_then(Value::as_str).unwrap_or_default();
    let read = match (text("apiVersion"), text("kind")) {
        ("v1", "ConfigMap") => through::<ConfigMap>,
        ("v1", "LimitRange") => through::<LimitRange>,
        ("v1", "Namespace") => through::<Namespace>,
        ("v1", "ResourceQuota") => through::<ResourceQuota>,
        ("v1", "Secret") => through::<Secret>,
        ("v1", "Service") => through::<Service>,
        ("v1", "ServiceAccount") => through::<ServiceAccount>,
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            through::<ValidatingAdmissionPolicy>
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            through::<ValidatingAdmissionPolicyBinding>
        }
        ("apps/v1", "Deployment") => through::<Deployment>,
        ("autoscaling/v2", "HorizontalPodAutoscaler") => through::<HorizontalPodAutoscaler>,
        ("batch/v1", "Job") => through::<Job>,
        ("networking.k8s.io/v1", "Ingress") => through::<Ingress>,
        ("networking.k8s.io/v1", "NetworkPolicy") => through::<NetworkPolicy>,
        ("node.k8s.io/v1", "RuntimeClass") => through::<RuntimeClass>,
        ("policy/v1", "PodDisruptionBudget") => through::<PodDisruptionBudget>,
        ("rbac.authorization.k8s.io/v1", "Role") => through::<Role>,
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => through::<RoleBinding>,
        _ => return None,
    };
    Some(read(content))
}

/// What the type does not have, and, for `whole` objects, what it needs and the file does not say.
pub(crate) fn differences(file: &Value, read_back: &Value, whole: bool) -> Vec<String> {
    let mut found = Vec::new();
    compare(file, read_back, whole, "", &mut found);
    found
}

fn compare(file: &Value, typed: &Value, whole: bool, path: &str, found: &mut Vec<String>) {
    match (file, typed) {
        (Value::Object(file), Value::Object(typed)) => {
            for (name, value) in file {
                let path = format!("{path}/{name}");
                match typed.get(name) {
                    Some(other) => compare(value, other, whole, &path, found),
                    None => found.push(format!("{path} is unknown")),
                }
            }
            for name in typed.keys().filter(|name| whole && !file.contains_key(*name)) {
                found.push(format!("{path}/{name} is missing"));
            }
        }
        (Value::Array(file), Value::Array(typed)) if file.len() == typed.len() => {
            for (place, (value, other)) in file.iter().zip(typed).enumerate() {
                compare(value, other, whole, &format!("{path}/{place}"), found);
            }
        }
        (file, typed) if file == typed => {}
        (file, typed) => found.push(format!("{path} is {file} in the file and {typed} as read")),
    }
}
