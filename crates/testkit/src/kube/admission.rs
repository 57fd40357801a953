//! What the server does with a new object before it keeps it: decoding, defaults, validation, admission.

use super::Policy;
use super::kind::Kind;
use super::status::Status;
use super::{object, schema, security};
use serde_json::{Value, json};

/// (field, reason, message) of a fault.
type Cause = (String, &'static str, String);

/// How unknown fields are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Reads a body; warnings go into the header of the answer.
pub(super) fn decode(
    kind: Kind,
    namespace: &str,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let mut new: Value = serde_json::from_slice(body).map_err(|error| {
        let message = format!(
            "{} in version \"v1\" cannot be handled as a {}: {error}",
            kind.name(),
            kind.name()
        );
        Status::bad_request(message)
    })?;
    if new["apiVersion"] != kind.api_version() || new["kind"] != kind.name() {
        let message = format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            object::text(&new, "/apiVersion"),
            kind.api_version()
        );
        return Err(Status::bad_request(message));
    }
    let given = object::namespace(&new);
    if !given.is_empty() && given != namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message));
    }
    new["metadata"]["namespace"] = namespace.into();
    let unknown = schema::unknown_fields(kind, &new).into_iter();
    let unknown: Vec<String> = unknown
        .map(|field| format!("unknown field \"{field}\""))
        .collect();
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => {
            let message = format!(
                "{} in version \"v1\" cannot be handled as a {}: strict decoding error: {}",
                kind.name(),
                kind.name(),
                unknown.join(", ")
            );
            Err(Status::bad_request(message))
        }
        FieldValidation::Warn => Ok((new, unknown)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((new, Vec::new())),
    }
}

/// Sets what the server sets, and refuses what is not valid.
pub(super) fn complete(kind: Kind, new: &mut Value) -> Result<(), Status> {
    if object::name(new).is_empty() {
        let base = object::text(new, "/metadata/generateName").to_owned();
        if !base.is_empty() {
            let base: String = base.chars().take(58).collect();
            new["metadata"]["name"] = format!("{base}{}", object::suffix()).into();
        }
    }
    let mut causes = Vec::new();
    check_meta(&new["metadata"], "metadata", true, &mut causes);
    match kind {
        Kind::Job => job(new, &mut causes),
        Kind::Pod => pod(&mut new["spec"], "spec", &mut causes),
        Kind::Secret => secret(new),
        _ => {}
    }
    if kind == Kind::Pod && new["status"].is_null() {
        new["status"] = json!({"phase": "Pending", "qosClass": "Burstable"});
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(kind, object::name(new), &causes))
}

fn required(field: impl Into<String>, more: &str) -> Cause {
    let message = if more.is_empty() {
        "Required value".to_owned()
    } else {
        format!("Required value: {more}")
    };
    (field.into(), "FieldValueRequired", message)
}

fn invalid(field: impl Into<String>, value: &str, why: &str) -> Cause {
    (
        field.into(),
        "FieldValueInvalid",
        format!("Invalid value: \"{value}\": {why}"),
    )
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                         start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
                     and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
                     validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_subdomain(name: &str) -> bool {
    let part = |part: &str| {
        let ends = |letter: Option<char>| {
            letter.is_some_and(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        };
        ends(part.chars().next())
            && ends(part.chars().last())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label(value: &str) -> bool {
    let ends = |letter: Option<char>| letter.is_none_or(|letter| letter.is_ascii_alphanumeric());
    value.len() <= 63
        && ends(value.chars().next())
        && ends(value.chars().last())
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn check_meta(meta: &Value, path: &str, named: bool, causes: &mut Vec<Cause>) {
    let name = meta["name"].as_str().unwrap_or_default();
    if named && name.is_empty() {
        causes.push(required(
            format!("{path}.name"),
            "name or generateName is required",
        ));
    } else if named && !is_subdomain(name) {
        causes.push(invalid(format!("{path}.name"), name, SUBDOMAIN));
    }
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if value.len() > 63 {
            causes.push(invalid(
                format!("{path}.labels"),
                value,
                "must be no more than 63 characters",
            ));
        } else if !is_label(value) {
            causes.push(invalid(format!("{path}.labels"), value, LABEL));
        }
        let short = key.rsplit('/').next().unwrap_or_default();
        if short.is_empty() || !is_label(short) {
            causes.push(invalid(
                format!("{path}.labels"),
                key,
                "name part must consist of alphanumeric characters",
            ));
        }
    }
}

fn default(place: &mut Value, field: &str, value: impl Into<Value>) {
    if place[field].is_null() {
        place[field] = value.into();
    }
}

fn job(new: &mut Value, causes: &mut Vec<Cause>) {
    let (uid, name) = (object::new_uid(), object::name(new).to_owned());
    new["metadata"]["uid"] = uid.clone().into();
    new["metadata"]["generation"] = 1.into();
    if name.len() > 63 {
        causes.push(invalid(
            "metadata.name",
            &name,
            "must be no more than 63 characters",
        ));
    }
    let spec = &mut new["spec"];
    default(spec, "parallelism", 1);
    default(spec, "completions", 1);
    default(spec, "backoffLimit", 6);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    spec["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let labels = &mut spec["template"]["metadata"]["labels"];
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[key] = value.clone().into();
    }
    let labels = labels.clone();
    check_meta(
        &spec["template"]["metadata"],
        "spec.template.metadata",
        false,
        causes,
    );
    let policy = object::text(spec, "/template/spec/restartPolicy");
    if !matches!(policy, "Never" | "OnFailure") {
        let why = "valid values: \"OnFailure\", \"Never\"";
        let cause = match policy {
            "" | "Always" => required("spec.template.spec.restartPolicy", why),
            other => (
                "spec.template.spec.restartPolicy".to_owned(),
                "FieldValueNotSupported",
                format!("Unsupported value: \"{other}\": supported values: \"OnFailure\", \"Never\""),
            ),
        };
        causes.push(cause);
    }
    pod(&mut spec["template"]["spec"], "spec.template.spec", causes);
    if new["metadata"]["labels"].is_null() {
        new["metadata"]["labels"] = labels;
    }
    new["status"] = json!({});
}

fn pod(spec: &mut Value, path: &str, causes: &mut Vec<Cause>) {
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<String> = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| object::text(volume, "/name").to_owned())
        .collect();
    for list in ["initContainers", "containers"] {
        for (index, one) in spec[list].as_array_mut().into_iter().flatten().enumerate() {
            container(one, &format!("{path}.{list}[{index}]"), &volumes, causes);
        }
    }
    let deadline = &spec["activeDeadlineSeconds"];
    if !deadline.is_null() && deadline.as_i64().is_none_or(|seconds| seconds < 1) {
        let why = "must be between 1 and 2147483647, inclusive";
        causes.push(invalid(
            format!("{path}.activeDeadlineSeconds"),
            &deadline.to_string(),
            why,
        ));
    }
}

fn container(one: &mut Value, path: &str, volumes: &[String], causes: &mut Vec<Cause>) {
    if object::text(one, "/name").is_empty() {
        causes.push(required(format!("{path}.name"), ""));
    }
    let image = object::text(one, "/image").to_owned();
    if image.is_empty() {
        causes.push(required(format!("{path}.image"), ""));
    }
    let latest = !image.rsplit('/').next().unwrap_or_default().contains(':') || image.ends_with(":latest");
    default(
        one,
        "imagePullPolicy",
        if latest { "Always" } else { "IfNotPresent" },
    );
    default(one, "terminationMessagePath", "/dev/termination-log");
    default(one, "terminationMessagePolicy", "File");
    default(one, "resources", json!({}));
    for (name, limit) in one["resources"]["limits"]
        .as_object()
        .cloned()
        .into_iter()
        .flatten()
    {
        default(&mut one["resources"]["requests"], &name, limit);
    }
    for (index, mount) in one["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let name = object::text(mount, "/name");
        if !volumes.iter().any(|volume| volume == name) {
            let field = format!("{path}.volumeMounts[{index}].name");
            causes.push((field, "FieldValueNotFound", format!("Not found: \"{name}\"")));
        }
        if object::text(mount, "/mountPath").is_empty() {
            causes.push(required(format!("{path}.volumeMounts[{index}].mountPath"), ""));
        }
    }
}

fn secret(new: &mut Value) {
    use base64::Engine as _;
    default(new, "type", "Opaque");
    let texts = new["stringData"].take();
    for (key, value) in texts.as_object().into_iter().flatten() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        new["data"][key] = encoded.into();
    }
    if let Some(fields) = new.as_object_mut() {
        fields.shift_remove("stringData");
    }
}

/// Admission before the quota: policies of the namespace. Gives warnings.
pub(super) fn admit(
    kind: Kind,
    new: &Value,
    by_worker: bool,
    dry_run: bool,
    policy: &Policy,
) -> Result<Vec<String>, Status> {
    let name = object::name(new);
    match kind {
        Kind::Job => {
            let found = security::violations(&new["spec"]["template"]["spec"], policy.violation.as_deref());
            Ok(found
                .map(|text| format!("would violate {text}"))
                .into_iter()
                .collect())
        }
        Kind::Pod => {
            if by_worker && !dry_run {
                let why = "ValidatingAdmissionPolicy 'agent-tool-pods' with binding 'agent-tool-pods' denied request: pods in \
                           this namespace come from Jobs; direct creation is for dry runs only";
                return Err(Status::forbidden(kind, name, why));
            }
            match security::violations(&new["spec"], policy.violation.as_deref()) {
                Some(text) => Err(Status::forbidden(kind, name, &format!("violates {text}"))),
                None => Ok(Vec::new()),
            }
        }
        _ => Ok(Vec::new()),
    }
}
