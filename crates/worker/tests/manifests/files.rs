//! The files below `k8s/`.

use serde::Deserialize as _;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) file: PathBuf,
    pub(crate) content: Value,
}

impl Object {
    pub(crate) fn kind(&self) -> &str {
        self.content
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.content
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} in {}", self.kind(), self.name(), self.file.display())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../k8s")
}

/// All YAML files of a directory and those below it.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("its entries too").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("the file can be read");
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| {
            Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        })
        .filter(|document| !document.is_null())
        .collect()
}

fn is_kustomization(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "kustomization.yaml")
}

/// Every object; what tells kustomize how to go about it is none.
pub(crate) fn objects() -> Vec<Object> {
    let settings = root().join("kustomizeconfig");
    files(&root())
        .into_iter()
        .filter(|file| !is_kustomization(file) && !file.starts_with(&settings))
        .flat_map(|file| {
            documents(&file).into_iter().map(move |content| Object {
                file: file.clone(),
                content,
            })
        })
        .collect()
}

pub(crate) fn kustomizations() -> Vec<(PathBuf, Value)> {
    files(&root())
        .into_iter()
        .filter(|file| is_kustomization(file))
        .flat_map(|file| {
            documents(&file)
                .into_iter()
                .map(move |content| (file.clone(), content))
        })
        .collect()
}
