//! The Job of a call, and the Secret with its order.
//!
//! Shape: one container whose entry point is the supervisor; only an image that is not ours gets an init container, which
//! copies the supervisor. Accepted by the pod security level `restricted`; nothing of the node or the API is to be had in
//! it, and names are resolved by `hostAliases` alone: asking for any other fails at once.

use super::options::RUN_RESERVE;
use super::spec::Spec;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, HostAlias, PodDNSConfig, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SeccompProfile, Secret, SecretVolumeSource, SecurityContext,
    Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;
use toolbox::wire::{GRACE_SECONDS, ORDER_DIR, ORDER_FILE, WORKSPACE_DIR};

/// Labels that all our Jobs and pods have.
pub const SELECTOR: &str = "app=agent-tool,app.kubernetes.io/managed-by=agent-worker";
pub const RUN_LABEL: &str = "run-id";
pub const STEP_LABEL: &str = "step-id";
/// Annotations of a Job.
pub const HASH_ANNOTATION: &str = "agent-runtime/spec-hash";
pub const ORDER_ANNOTATION: &str = "agent-runtime/order";
pub const WORKER_ANNOTATION: &str = "agent-runtime/worker";
pub const TRACE_ANNOTATION: &str = "traceparent";

/// The tool's container.
pub const CONTAINER: &str = "tool";
const SUPERVISOR: &str = "/usr/local/bin/agent-tool-supervisor";
/// Where the supervisor lies in an image that is not ours.
const FOREIGN_DIR: &str = "/run/agent-bin";
const USER: i64 = 10_001;
const TTL_SECONDS: i32 = 300;
/// A node that is lost is given up after this time.
const TOLERATION_SECONDS: i64 = 30;
const EPHEMERAL_STORAGE: &str = "2Gi";
const WORKSPACE_SIZE: &str = "2Gi";
const TMP_SIZE: &str = "1Gi";

/// What differs from one making of a Job to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Making {
    /// Name of the Secret with the order.
    pub order: String,
    pub worker: String,
    pub traceparent: Option<String>,
    pub runtime_class: Option<String>,
    /// Our image, for the one that is not.
    pub supervisor_image: String,
    /// Addresses of the object store's host.
    pub hosts: Vec<(String, String)>,
}

/// The Job of a call.
pub fn manifest(spec: &Spec, making: &Making) -> Job {
    let labels = labels(spec);
    let mut annotations = BTreeMap::from([
        (HASH_ANNOTATION.to_owned(), spec.hash.clone()),
        (ORDER_ANNOTATION.to_owned(), making.order.clone()),
        (WORKER_ANNOTATION.to_owned(), making.worker.clone()),
    ]);
    let trace = making.traceparent.iter();
    annotations.extend(trace.map(|trace| (TRACE_ANNOTATION.to_owned(), trace.clone())));
    Job {
        metadata: ObjectMeta {
            name: Some(spec.job_name.clone()),
            labels: Some(labels.clone()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            ttl_seconds_after_finished: Some(TTL_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(spec, making)),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn labels(spec: &Spec) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("app", "agent-tool".to_owned()),
        ("app.kubernetes.io/managed-by", "agent-worker".to_owned()),
        ("tool", spec.tool.as_str().to_owned()),
        (RUN_LABEL, spec.run_id.to_string()),
        (STEP_LABEL, spec.step_id.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let language = spec.language.iter();
    labels.extend(language.map(|language| ("language".to_owned(), language.clone())));
    labels
}

/// The pod of a call; also tried out by itself when a Job makes none.
pub fn pod(spec: &Spec, making: &Making) -> PodSpec {
    let deadline = spec.timeout + RUN_RESERVE;
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: Some(deadline.as_secs() as i64),
        termination_grace_period_seconds: Some(GRACE_SECONDS as i64),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        runtime_class_name: making.runtime_class.clone(),
        host_aliases: host_aliases(&making.hosts),
        dns_policy: Some("None".to_owned()),
        dns_config: Some(PodDNSConfig {
            nameservers: Some(vec!["127.0.0.1".to_owned()]),
            ..PodDNSConfig::default()
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        tolerations: Some(["not-ready", "unreachable"].map(gone_node).to_vec()),
        init_containers: spec.is_foreign.then(|| vec![installer(spec, making)]),
        containers: vec![container(spec)],
        volumes: Some(volumes(spec, making)),
        ..PodSpec::default()
    }
}

fn host_aliases(hosts: &[(String, String)]) -> Option<Vec<HostAlias>> {
    let alias = |(ip, name): &(String, String)| HostAlias {
        ip: ip.clone(),
        hostnames: Some(vec![name.clone()]),
    };
    (!hosts.is_empty()).then(|| hosts.iter().map(alias).collect())
}

fn gone_node(state: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{state}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(TOLERATION_SECONDS),
        value: None,
    }
}

fn container(spec: &Spec) -> Container {
    let mut mounts = vec![
        mount("order", ORDER_DIR, true),
        mount("workspace", WORKSPACE_DIR, false),
        mount("tmp", "/tmp", false),
    ];
    let command = if spec.is_foreign {
        mounts.push(mount("supervisor", FOREIGN_DIR, true));
        format!("{FOREIGN_DIR}/agent-tool-supervisor")
    } else {
        SUPERVISOR.to_owned()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(spec.image.clone()),
        command: Some(vec![command]),
        volume_mounts: Some(mounts),
        ..bare_container(spec)
    }
}

/// Copies the supervisor out of our image.
fn installer(spec: &Spec, making: &Making) -> Container {
    Container {
        name: "supervisor".to_owned(),
        image: Some(making.supervisor_image.clone()),
        command: Some(vec![
            SUPERVISOR.to_owned(),
            "install".to_owned(),
            FOREIGN_DIR.to_owned(),
        ]),
        volume_mounts: Some(vec![mount("supervisor", FOREIGN_DIR, false)]),
        ..bare_container(spec)
    }
}

fn bare_container(spec: &Spec) -> Container {
    Container {
        image_pull_policy: Some("IfNotPresent".to_owned()),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(&[("cpu", "100m"), ("memory", "128Mi")])),
            limits: Some(quantities(&[
                ("cpu", spec.resources.cpu),
                ("memory", spec.resources.memory),
                ("ephemeral-storage", EPHEMERAL_STORAGE),
            ])),
            claims: None,
        }),
        security_context: Some(SecurityContext {
            run_as_non_root: Some(true),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn quantities(of: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    of.iter()
        .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
        .collect()
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn volumes(spec: &Spec, making: &Making) -> Vec<Volume> {
    let empty = |name: &str, size: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(size.to_owned())),
            medium: None,
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        Volume {
            name: "order".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(making.order.clone()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        empty("workspace", WORKSPACE_SIZE),
        empty("tmp", TMP_SIZE),
    ];
    if spec.is_foreign {
        volumes.push(empty("supervisor", "64Mi"));
    }
    volumes
}

/// The Secret with the order; it goes with its Job.
pub fn order_secret(spec: &Spec, (name, job_uid): (&str, &str), order: String) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels(spec)),
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".to_owned(),
                kind: "Job".to_owned(),
                name: spec.job_name.clone(),
                uid: job_uid.to_owned(),
                controller: Some(false),
                block_owner_deletion: Some(false),
            }]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        string_data: Some(BTreeMap::from([(ORDER_FILE.to_owned(), order)])),
        data: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::samples::{code, options, shell};
    use serde_json::json;

    fn making() -> Making {
        Making {
            order: "order-1".to_owned(),
            worker: "w-1".to_owned(),
            traceparent: Some("00-1-2-01".to_owned()),
            runtime_class: None,
            supervisor_image: "agent-tools:phase2b".to_owned(),
            hosts: vec![("10.1.2.3".to_owned(), "s3.example".to_owned())],
        }
    }

    fn container_json(memory: &str, cpu: &str) -> serde_json::Value {
        json!({
            "name": "tool", "image": "agent-tools:phase2b", "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/local/bin/agent-tool-supervisor"],
            "resources": {
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": cpu, "memory": memory, "ephemeral-storage": "2Gi"}},
            "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "order", "mountPath": "/run/agent-order", "readOnly": true},
                {"name": "workspace", "mountPath": "/workspace"},
                {"name": "tmp", "mountPath": "/tmp"}]})
    }

    fn pod_json() -> serde_json::Value {
        let gone = |state: &str| {
            json!({"key": format!("node.kubernetes.io/{state}"), "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 30})
        };
        json!({
            "restartPolicy": "Never", "activeDeadlineSeconds": 420, "terminationGracePeriodSeconds": 10,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["s3.example"]}],
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "tolerations": [gone("not-ready"), gone("unreachable")],
            "containers": [container_json("512Mi", "500m")],
            "volumes": [
                {"name": "order", "secret": {"secretName": "order-1", "defaultMode": 0o440}},
                {"name": "workspace", "emptyDir": {"sizeLimit": "2Gi"}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]})
    }

    #[test]
    fn the_job_of_a_shell_call_is_as_the_contract_says() {
        let request = shell("true");
        let spec = Spec::of(&request, &options());
        let labels = json!({"app": "agent-tool", "app.kubernetes.io/managed-by": "agent-worker", "tool": "shell",
            "run-id": request.run_id, "step-id": request.step_id});
        let expected = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": spec.job_name, "labels": labels,
                "annotations": {"agent-runtime/spec-hash": spec.hash, "agent-runtime/order": "order-1",
                    "agent-runtime/worker": "w-1", "traceparent": "00-1-2-01"}},
            "spec": {
                "backoffLimit": 0, "completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": 300,
                "template": {"metadata": {"labels": labels}, "spec": pod_json()}}});
        let made = serde_json::to_value(manifest(&spec, &making())).unwrap();
        assert_eq!(made, expected, "{made:#}");
    }

    #[test]
    fn code_has_a_larger_share_and_its_language_as_a_label() {
        let spec = Spec::of(&code("python", "print(1)"), &options());
        let made = serde_json::to_value(manifest(&spec, &making())).unwrap();
        assert_eq!(made["metadata"]["labels"]["language"], "python");
        assert_eq!(made["spec"]["template"]["metadata"]["labels"]["tool"], "code");
        let container = &made["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(*container, container_json("1Gi", "1000m"));
        assert!(
            !made.to_string().contains("print(1)"),
            "the program is in the order alone"
        );
    }

    #[test]
    fn an_image_that_is_not_ours_gets_the_supervisor_by_an_init_container() {
        let mut options = options();
        options.images.tool_image_python = Some("python:3".to_owned());
        let spec = Spec::of(&code("python", "1"), &options);
        let making = Making {
            runtime_class: Some("gvisor".to_owned()),
            ..making()
        };
        let pod = serde_json::to_value(pod(&spec, &making)).unwrap();
        assert_eq!(pod["runtimeClassName"], "gvisor");
        let (init, tool) = (&pod["initContainers"][0], &pod["containers"][0]);
        assert_eq!(init["image"], "agent-tools:phase2b");
        assert_eq!(
            init["command"],
            json!([
                "/usr/local/bin/agent-tool-supervisor",
                "install",
                "/run/agent-bin"
            ])
        );
        assert!(
            !init.to_string().contains("agent-order"),
            "no order for it: {init}"
        );
        assert_eq!(
            init["resources"]["requests"],
            json!({"cpu": "100m", "memory": "128Mi"})
        );
        assert_eq!(tool["image"], "python:3");
        assert_eq!(tool["command"], json!(["/run/agent-bin/agent-tool-supervisor"]));
        assert_eq!(tool["volumeMounts"][3]["readOnly"], true);
    }

    #[test]
    fn the_order_belongs_to_its_job_and_goes_with_it() {
        let spec = Spec::of(&shell("true"), &options());
        let secret = order_secret(&spec, ("order-1", "uid-1"), "{}".to_owned());
        let made = serde_json::to_value(&secret).unwrap();
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "uid-1");
        assert_eq!(made["stringData"], json!({"order.json": "{}"}));
        assert_eq!(made["immutable"], true);
    }
}
