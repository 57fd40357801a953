//! A pod's volumes as directories of the host.

use super::kind::Kind;
use super::{Cluster, object, quota};
use base64::Engine as _;
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// One volume.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) read_only: bool,
    /// Of an emptyDir.
    pub(super) size_limit: Option<u64>,
}

/// Makes all volumes below `dir`; the error is the message of `FailedMount`.
pub(super) fn prepare(cluster: &Cluster, pod: &Value, dir: &Path) -> Result<Vec<Volume>, String> {
    let group = pod["spec"]["securityContext"]["fsGroup"].as_u64();
    let mut made = Vec::new();
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let name = object::text(volume, "/name").to_owned();
        let place = dir.join(&name);
        let empty = volume["emptyDir"].is_object();
        if empty {
            make_dir(&place, 0o777, group);
        } else {
            let (kind, key) = if volume["secret"].is_object() {
                (Kind::Secret, "secretName")
            } else {
                (Kind::ConfigMap, "name")
            };
            let source = &volume[if kind == Kind::Secret {
                "secret"
            } else {
                "configMap"
            }];
            let wanted = object::text(source, &format!("/{key}"));
            let found = cluster.read(|state| state.get(kind, object::namespace(pod), wanted).cloned());
            let Some(found) = found else {
                let what = kind.name().to_lowercase();
                return Err(format!(
                    "MountVolume.SetUp failed for volume \"{name}\" : {what} \"{wanted}\" not found"
                ));
            };
            make_dir(&place, 0o755, group);
            write_files(&place, source, &found, group);
        }
        let limit = &volume["emptyDir"]["sizeLimit"];
        made.push(Volume {
            name,
            dir: place,
            read_only: !empty,
            size_limit: (!limit.is_null()).then(|| (quota::quantity(limit) / 1_000) as u64),
        });
    }
    Ok(made)
}

fn make_dir(place: &Path, mode: u32, group: Option<u64>) {
    std::fs::create_dir_all(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    own(place, mode, group);
}

fn own(place: &Path, mode: u32, group: Option<u64>) {
    let done = std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode)).and_then(|()| {
        if nix::unistd::geteuid().is_root() {
            chown(place, None, group.map(|group| group as u32))
        } else {
            Ok(())
        }
    });
    done.unwrap_or_else(|error| panic!("{}: {error}", place.display()));
}

/// With a group for files the kubelet gives it the owner's right to read.
fn write_files(place: &Path, source: &Value, object: &Value, group: Option<u64>) {
    let mode = source["defaultMode"].as_u64().unwrap_or(0o644) as u32;
    let mode = if group.is_some() {
        mode | (mode & 0o400) >> 3
    } else {
        mode
    };
    let items = source["items"].as_array();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let item = items.map(|items| items.iter().find(|item| item["key"] == *key));
        let name = match item {
            None => key.as_str(),
            Some(Some(item)) => object::text(item, "/path"),
            Some(None) => continue,
        };
        let text = value.as_str().unwrap_or_default();
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        let content = decoded.unwrap_or_else(|_| text.as_bytes().to_vec());
        let file = place.join(name);
        std::fs::write(&file, content).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        own(&file, mode, group);
    }
}

/// Bytes of all files below a directory, links not followed; what goes away meanwhile does not count.
pub(super) fn size(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() {
            size(&entry.path())
        } else {
            meta.len()
        };
    }
    sum
}
