//! create, get, list and delete, each one step under the store's lock.

use super::admission::{self, FieldValidation};
use super::kind::Kind;
use super::request::Call;
use super::rights::User;
use super::status::Status;
use super::store::State;
use super::{Cluster, clock, object, quota};
use serde_json::{Value, json};

/// An answer with its code and warnings.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: u16,
    pub(super) body: Value,
    pub(super) warnings: Vec<String>,
}

impl Done {
    pub(super) fn ok(body: Value) -> Self {
        Self {
            code: 200,
            body,
            warnings: Vec::new(),
        }
    }
}

/// One object's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

pub(super) fn create(
    cluster: &Cluster,
    user: User,
    call: &Call,
    spot: Spot<'_>,
    body: &[u8],
) -> Result<Done, Status> {
    let kind = spot.kind;
    let dry_run = dry_run(call.query("dryRun"))?;
    let validation = match call.query("fieldValidation") {
        "Strict" => FieldValidation::Strict,
        "Ignore" => FieldValidation::Ignore,
        "" | "Warn" => FieldValidation::Warn,
        other => return Err(Status::bad_request(format!("invalid fieldValidation {other}"))),
    };
    if !cluster
        .options
        .namespaces
        .iter()
        .any(|known| known == spot.namespace)
    {
        return Err(Status::no_namespace(spot.namespace));
    }
    let (mut new, mut warnings) = admission::decode(kind, spot.namespace, body, validation)?;
    admission::complete(kind, &mut new)?;
    let policy = cluster.policy();
    warnings.extend(admission::admit(
        kind,
        &new,
        user == User::Worker,
        dry_run,
        &policy,
    )?);
    let object = cluster.write(|state| insert(state, kind, new, dry_run))?;
    Ok(Done {
        code: 201,
        body: object,
        warnings,
    })
}

/// The quota comes before the name: a full quota hides that the name is taken.
pub(super) fn insert(state: &mut State, kind: Kind, new: Value, dry_run: bool) -> Result<Value, Status> {
    quota::admit(state, kind, &new)?;
    let name = object::name(&new).to_owned();
    if let Some(there) = state.get(kind, object::namespace(&new), &name) {
        return Err(if object::is_terminating(there) {
            Status::being_deleted(kind, &name)
        } else {
            Status::already_exists(kind, &name)
        });
    }
    if !dry_run {
        return Ok(state.insert(kind, new));
    }
    let mut new = new;
    if new["metadata"]["uid"].is_null() {
        new["metadata"]["uid"] = object::new_uid().into();
    }
    new["metadata"]["creationTimestamp"] = clock::stamp().into();
    Ok(new)
}

fn dry_run(text: &str) -> Result<bool, Status> {
    match text {
        "" => Ok(false),
        "All" => Ok(true),
        other => {
            let message = format!("Invalid value: [\"{other}\"]: dryRun: supported values: \"All\"");
            Err(Status::bad_request(message))
        }
    }
}

pub(super) fn get(cluster: &Cluster, spot: Spot<'_>) -> Result<Done, Status> {
    let found = cluster.read(|state| state.get(spot.kind, spot.namespace, spot.name).cloned());
    found
        .map(Done::ok)
        .ok_or_else(|| Status::not_found(spot.kind, spot.name))
}

pub(super) fn list(cluster: &Cluster, call: &Call, spot: Spot<'_>) -> Done {
    let selector = object::Selector::parse(call.query("labelSelector"), call.query("fieldSelector"));
    let (version, items) = cluster.read(|state| {
        let all = state.list(spot.kind, spot.namespace);
        let items: Vec<Value> = all.filter(|object| selector.matches(object)).cloned().collect();
        (state.version, items)
    });
    Done::ok(json!({
        "kind": format!("{}List", spot.kind.name()), "apiVersion": spot.kind.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    }))
}

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

pub(super) fn delete(cluster: &Cluster, call: &Call, spot: Spot<'_>, body: &[u8]) -> Result<Done, Status> {
    let options: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("invalid DeleteOptions: {error}")))?
    };
    let given = |field: &str| {
        options[field]
            .as_str()
            .unwrap_or_else(|| call.query(field))
            .to_owned()
    };
    let propagation = match given("propagationPolicy").as_str() {
        "Foreground" => Propagation::Foreground,
        "Orphan" => Propagation::Orphan,
        // The trap: Jobs of batch/v1 leave their pods alone unless told otherwise.
        "" if spot.kind == Kind::Job => Propagation::Orphan,
        "" | "Background" => Propagation::Background,
        other => {
            let message = format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\""
            );
            return Err(Status::new(422, "Invalid", message));
        }
    };
    let grace = options["gracePeriodSeconds"]
        .as_i64()
        .or_else(|| call.query("gracePeriodSeconds").parse().ok());
    let wanted_uid = object::text(&options, "/preconditions/uid");
    let dry_run =
        options["dryRun"].as_array().is_some_and(|all| !all.is_empty()) || call.query("dryRun") == "All";
    cluster.write(|state| {
        let found = state.get(spot.kind, spot.namespace, spot.name).cloned();
        let found = found.ok_or_else(|| Status::not_found(spot.kind, spot.name))?;
        let uid = object::uid(&found);
        if !wanted_uid.is_empty() && wanted_uid != uid {
            return Err(Status::wrong_uid(spot.kind, spot.name, wanted_uid, uid));
        }
        if dry_run {
            return Ok(Done::ok(success(spot, uid)));
        }
        match spot.kind {
            Kind::Pod => Ok(delete_pod(state, &found, grace)),
            Kind::Job => Ok(delete_job(state, spot, &found, propagation)),
            _ => {
                state.remove(spot.kind, uid);
                Ok(Done::ok(success(spot, uid)))
            }
        }
    })
}

fn success(spot: Spot<'_>, uid: &str) -> Value {
    let mut details = json!({"name": spot.name, "kind": spot.kind.resource(), "uid": uid});
    if !spot.kind.group().is_empty() {
        details["group"] = spot.kind.group().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn delete_job(state: &mut State, spot: Spot<'_>, job: &Value, propagation: Propagation) -> Done {
    let uid = object::uid(job);
    let finalizer = match propagation {
        Propagation::Background => {
            state.remove(Kind::Job, uid);
            return Done::ok(success(spot, uid));
        }
        Propagation::Foreground => "foregroundDeletion",
        Propagation::Orphan => "orphan",
    };
    // The garbage collector does the rest.
    state.update(Kind::Job, uid, |job| {
        if !object::is_terminating(job) {
            job["metadata"]["deletionTimestamp"] = clock::stamp().into();
            job["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            job["metadata"]["finalizers"] = json!([finalizer]);
        }
    });
    let body = state.by_uid(Kind::Job, uid).cloned().unwrap_or_default();
    Done::ok(body)
}

/// The kubelet ends what runs and removes the object; what no kubelet has, or has ended, goes at once.
pub(super) fn delete_pod(state: &mut State, pod: &Value, grace: Option<i64>) -> Done {
    let uid = object::uid(pod);
    let own = pod["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    let at_once = object::text(pod, "/spec/nodeName").is_empty() || object::has_ended(pod);
    let grace = if at_once { 0 } else { grace.unwrap_or(own) };
    if grace == 0 {
        let last = state.remove(Kind::Pod, uid).unwrap_or_default();
        return Done::ok(last);
    }
    state.update(Kind::Pod, uid, |pod| {
        let before = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
        if before.is_none_or(|before| grace < before) {
            let end = clock::now() + jiff::SignedDuration::from_secs(grace);
            pod["metadata"]["deletionTimestamp"] = clock::seconds(end).into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        }
    });
    Done::ok(state.by_uid(Kind::Pod, uid).cloned().unwrap_or_default())
}
