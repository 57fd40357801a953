//! What the server keeps: objects, and the changes that watches read.
//!
//! One lock holds both, so a list and the changes after it fit together without a gap.

use super::kind::Kind;
use super::{clock, object, quota};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// So many changes can be watched from; older ones are gone (410).
const KEPT: usize = 20_000;

type Key = (Kind, String, String);

/// A change as watches see it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: Kind,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) what: &'static str,
    pub(super) object: Arc<Value>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) version: u64,
    objects: BTreeMap<Key, Value>,
    keys: HashMap<String, Key>,
    changes: VecDeque<Change>,
    /// Changes up to this version are gone.
    pub(super) oldest: u64,
    pub(super) figures: Figures,
    /// The quotas' figures may be old.
    dirty: bool,
}

/// What tests ask for at the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// Most Jobs there were at one instant.
    pub(super) peak_jobs: usize,
    /// Names of all Jobs ever made, with how often.
    pub(super) made_jobs: BTreeMap<String, u32>,
    /// Starts of a main container, by the name of its Job (or pod).
    pub(super) starts: BTreeMap<String, u32>,
    /// Uids of pods that the kubelet holds lost.
    pub(super) lost: BTreeSet<String>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            version: 100,
            objects: BTreeMap::new(),
            keys: HashMap::new(),
            changes: VecDeque::new(),
            oldest: 100,
            figures: Figures::default(),
            dirty: true,
        }
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, namespace.to_owned(), name.to_owned()))
    }

    /// `""` = all namespaces.
    pub(super) fn list<'a>(&'a self, kind: Kind, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
        let of_kind = self.objects.range((kind, namespace.to_owned(), String::new())..);
        let inside = of_kind.take_while(move |((found, place, _), _)| {
            *found == kind && (namespace.is_empty() || place == namespace)
        });
        inside.map(|(_, object)| object)
    }

    /// All objects but events, which own nothing and are limited by no quota.
    pub(super) fn all(&self) -> impl Iterator<Item = (Kind, &Value)> {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Event);
        kinds.flat_map(|kind| self.list(kind, "").map(move |object| (kind, object)))
    }

    pub(super) fn by_uid(&self, kind: Kind, uid: &str) -> Option<&Value> {
        let key = self.keys.get(uid).filter(|key| key.0 == kind)?;
        self.objects.get(key)
    }

    pub(super) fn has_uid(&self, uid: &str) -> bool {
        self.keys.contains_key(uid)
    }

    fn note(&mut self, kind: Kind, what: &'static str, object: &mut Value) {
        self.dirty |= kind == Kind::Pod || (what != "MODIFIED" && kind != Kind::Event) || kind == Kind::Quota;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.changes.push_back(Change {
            version: self.version,
            kind,
            what,
            object: Arc::new(object.clone()),
        });
        if self.changes.len() > KEPT {
            self.oldest = self
                .changes
                .pop_front()
                .map_or(self.oldest, |change| change.version);
        }
    }

    /// Puts in a new object, with the fields the server sets.
    pub(super) fn insert(&mut self, kind: Kind, mut object: Value) -> Value {
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = object::new_uid().into();
        }
        if object["metadata"]["creationTimestamp"].is_null() {
            object["metadata"]["creationTimestamp"] = clock::stamp().into();
        }
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.name().into();
        self.note(kind, "ADDED", &mut object);
        let (namespace, name) = (
            object::namespace(&object).to_owned(),
            object::name(&object).to_owned(),
        );
        if kind == Kind::Job {
            *self.figures.made_jobs.entry(name.clone()).or_default() += 1;
        }
        let key = (kind, namespace, name);
        self.keys.insert(object::uid(&object).to_owned(), key.clone());
        self.objects.insert(key, object.clone());
        let jobs = self.list(Kind::Job, "").count();
        self.figures.peak_jobs = self.figures.peak_jobs.max(jobs);
        object
    }

    /// Changes an object that is still the one with this uid; nothing is noted where nothing changed.
    pub(super) fn update(&mut self, kind: Kind, uid: &str, change: impl FnOnce(&mut Value)) -> bool {
        let Some(key) = self.keys.get(uid).filter(|key| key.0 == kind).cloned() else {
            return false;
        };
        let Some(before) = self.objects.get(&key) else {
            return false;
        };
        let mut after = before.clone();
        change(&mut after);
        if after == *before {
            return true;
        }
        self.note(kind, "MODIFIED", &mut after);
        self.objects.insert(key, after);
        true
    }

    pub(super) fn remove(&mut self, kind: Kind, uid: &str) -> Option<Value> {
        let key = self.keys.get(uid).filter(|key| key.0 == kind).cloned()?;
        self.keys.remove(uid);
        let mut object = self.objects.remove(&key)?;
        self.note(kind, "DELETED", &mut object);
        Some(object)
    }

    /// Changes of a kind after a version, or nothing when some of them are gone.
    pub(super) fn changes_after(&self, version: u64, kind: Kind) -> Option<Vec<Change>> {
        if version < self.oldest {
            return None;
        }
        let from = self.changes.partition_point(|change| change.version <= version);
        let newer = self.changes.range(from..);
        Some(newer.filter(|change| change.kind == kind).cloned().collect())
    }

    pub(super) fn compact(&mut self) {
        self.changes.clear();
        self.version += 1;
        self.oldest = self.version;
    }

    /// Notes what happened to an object, as controllers do.
    pub(super) fn event(
        &mut self,
        kind: Kind,
        about: &Value,
        (source, warning, reason): (&str, bool, &str),
        message: &str,
    ) {
        let name = format!(
            "{}.{}",
            object::name(about),
            &object::new_uid()[..16].replace('-', "")
        );
        let stamp = clock::stamp();
        self.insert(
            Kind::Event,
            json!({
                "metadata": {"name": name, "namespace": object::namespace(about)},
                "involvedObject": {
                    "kind": kind.name(), "namespace": object::namespace(about), "name": object::name(about),
                    "uid": object::uid(about), "apiVersion": kind.api_version(),
                    "resourceVersion": object::text(about, "/metadata/resourceVersion"),
                },
                "reason": reason, "message": message,
                "source": {"component": source},
                "firstTimestamp": stamp, "lastTimestamp": stamp, "count": 1,
                "type": if warning { "Warning" } else { "Normal" },
                "eventTime": null, "reportingComponent": source, "reportingInstance": "",
            }),
        );
    }

    /// Brings the used figures of the quotas up to date.
    pub(super) fn refresh_quotas(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let quotas: Vec<Value> = self.list(Kind::Quota, "").cloned().collect();
        for found in quotas {
            let used = quota::used(self, &found);
            self.update(Kind::Quota, object::uid(&found), |object| {
                object["status"]["used"] = used;
            });
        }
    }
}
