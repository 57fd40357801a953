//! Every object below `k8s/`, parsed as strictly as the API server does on `--validate=strict`: a field that its kind does not
//! have fails. Needs neither kubectl nor a cluster; figures and cross-references are checked by `scripts/ci/test-deploy.sh`.
#![cfg(test)]

mod files;
mod kinds;
mod tables;

use files::{Object, kustomizations, objects};
use serde_json::{Value, json};

/// Whether an object stands for itself or changes another one.
fn is_patch(object: &Object) -> bool {
    object
        .file
        .components()
        .any(|part| part.as_os_str() == "overlays")
        && ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"].contains(&object.kind())
}

#[test]
fn objects_have_only_fields_that_kubernetes_knows() {
    let mut seen = 0;
    for object in objects() {
        let Some(read_back) = kinds::read_back(&object.content) else {
            continue;
        };
        let read_back = read_back.unwrap_or_else(|error| panic!("{object}: {error}"));
        seen += 1;
        let differences = kinds::differences(&object.content, &read_back, !is_patch(&object));
        assert!(differences.is_empty(), "{object}: {differences:?}");
    }
    assert!(seen > 40, "only {seen} objects were found");
}

#[test]
fn objects_of_operators_have_only_fields_of_their_kind() {
    let mut seen = 0;
    for object in objects() {
        if kinds::read_back(&object.content).is_some() {
            continue;
        }
        seen += 1;
        let table = tables::of(object.kind())
            .unwrap_or_else(|| panic!("{object}: neither of Kubernetes nor in the tables"));
        let unknown = tables::unknown(&object.content, table);
        assert!(unknown.is_empty(), "{object}: {unknown:?}");
    }
    assert_eq!(seen, 5, "two scrapes, two sets of rules, one scaled object");
}

#[test]
fn kustomizations_have_only_known_fields_and_every_file_they_name_is_there() {
    let mut seen = 0;
    for (file, content) in kustomizations() {
        seen += 1;
        let unknown = tables::unknown(&content, tables::KUSTOMIZATION);
        assert!(unknown.is_empty(), "{}: {unknown:?}", file.display());
        let directory = file.parent().expect("a file is in a directory");
        for name in named_files(&content) {
            assert!(
                directory.join(&name).exists(),
                "{}: {name} is not there",
                file.display()
            );
        }
    }
    assert_eq!(seen, 8);
}

fn named_files(kustomization: &Value) -> Vec<String> {
    let list = |pointer: &str| {
        kustomization
            .pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut names: Vec<String> = ["/resources", "/configurations"]
        .iter()
        .flat_map(|pointer| list(pointer))
        .filter_map(|value| text(&value))
        .collect();
    names.extend(
        list("/patches")
            .iter()
            .filter_map(|patch| patch.get("path").and_then(text)),
    );
    names.extend(
        list("/configMapGenerator")
            .iter()
            .filter_map(|generator| generator.pointer("/files/0").and_then(text)),
    );
    names
}

#[test]
fn a_field_that_does_not_exist_is_found_wherever_it_is() {
    let worker = objects()
        .into_iter()
        .find(|object| object.kind() == "Deployment" && object.name() == "agent-worker")
        .expect("the worker has a Deployment");
    for (place, name) in [
        ("", "specs"),
        ("/metadata", "label"),
        ("/spec", "replica"),
        ("/spec/template/spec", "serviceAccout"),
        ("/spec/template/spec/containers/0", "livenessprobe"),
        ("/spec/template/spec/containers/0/resources", "limit"),
        ("/spec/template/spec/containers/0/livenessProbe/httpGet", "prot"),
    ] {
        let mut broken = worker.content.clone();
        broken
            .pointer_mut(place)
            .and_then(Value::as_object_mut)
            .unwrap_or_else(|| panic!("{place} is an object"))
            .insert(name.to_owned(), json!("x"));
        let read_back = kinds::read_back(&broken)
            .expect("a Deployment is known")
            .expect("it is still readable");
        assert_eq!(
            kinds::differences(&broken, &read_back, true),
            [format!("{place}/{name} is unknown")]
        );
    }
}

#[test]
fn a_value_of_another_type_is_refused() {
    let bad = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": "80"}]}});
    assert!(kinds::read_back(&bad).expect("a Service is known").is_err());
    let scaled = json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}, "spec": {"minReplicaCount": "2"}});
    let table = tables::of("ScaledObject").expect("it has a table");
    assert_eq!(
        tables::unknown(&scaled, table),
        ["/spec/minReplicaCount is no number"]
    );
}

#[test]
fn no_name_is_used_twice() {
    let mut seen = std::collections::BTreeSet::new();
    for object in objects().iter().filter(|object| !is_patch(object)) {
        let namespace = object
            .content
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let key = format!("{} {namespace}/{}", object.kind(), object.name());
        assert!(seen.insert(key.clone()), "{key} is there twice");
    }
}
