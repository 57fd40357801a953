//! What we keep of a Job and of its pod: small, and free of the API's types.

use super::job::{CONTAINER, HASH_ANNOTATION, ORDER_ANNOTATION, RUN_LABEL, STEP_LABEL};
use domain::ids::{RunId, StepId};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Label of a pod with its Job's uid, and what it was called before.
const CONTROLLER_UID: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];

/// A tool's Job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobSeen {
    pub name: String,
    pub uid: String,
    pub version: u64,
    pub spec_hash: Option<String>,
    /// Name of the Secret it mounts.
    pub order: Option<String>,
    pub run_id: Option<RunId>,
    pub step_id: Option<StepId>,
    /// Seconds since the epoch.
    pub created_at: i64,
    pub is_deleted: bool,
    /// `Complete` or `Failed` is true.
    pub has_finished: bool,
}

/// A pod of such a Job.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that the API tells"
)]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSeen {
    pub name: String,
    pub uid: String,
    pub job_uid: String,
    pub version: u64,
    pub is_deleted: bool,
    /// `status.reason` and `status.message`, for example `Evicted`.
    pub reason: String,
    pub message: String,
    pub has_failed: bool,
    /// A node was found.
    pub is_scheduled: bool,
    /// Why none was.
    pub unschedulable: Option<String>,
    /// Reason of the condition DisruptionTarget.
    pub disruption: Option<String>,
    /// Reason and message of a container that does not start.
    pub waiting: Option<(String, String)>,
    pub is_running: bool,
    pub ended: Option<Ended>,
}

/// How the tool's container ended, or an init container that failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// It was the init container.
    pub is_installer: bool,
}

fn version(meta: &ObjectMeta) -> u64 {
    let version = meta.resource_version.as_deref().unwrap_or_default();
    version.parse().unwrap_or_default()
}

fn labelled<T: std::str::FromStr>(meta: &ObjectMeta, name: &str) -> Option<T> {
    meta.labels.as_ref()?.get(name)?.parse().ok()
}

fn annotated(meta: &ObjectMeta, name: &str) -> Option<String> {
    meta.annotations.as_ref()?.get(name).cloned()
}

impl JobSeen {
    pub fn of(job: &Job) -> Self {
        let meta = &job.metadata;
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        let is_end = |kind: &str| kind == "Complete" || kind == "Failed";
        let has_finished = conditions
            .into_iter()
            .flatten()
            .any(|condition| is_end(&condition.type_) && condition.status == "True");
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: version(meta),
            spec_hash: annotated(meta, HASH_ANNOTATION),
            order: annotated(meta, ORDER_ANNOTATION),
            run_id: labelled(meta, RUN_LABEL).map(RunId),
            step_id: labelled(meta, STEP_LABEL).map(StepId),
            created_at: meta
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            is_deleted: meta.deletion_timestamp.is_some(),
            has_finished,
        }
    }
}

impl PodSeen {
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let job_uid = CONTROLLER_UID.iter().find_map(|name| labelled(meta, name));
        let mut seen = Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            job_uid: job_uid.or_else(|| owner(meta)).unwrap_or_default(),
            version: version(meta),
            is_deleted: meta.deletion_timestamp.is_some(),
            is_scheduled: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
            ..Self::default()
        };
        if let Some(status) = &pod.status {
            seen.status(status);
        }
        seen
    }

    fn status(&mut self, status: &PodStatus) {
        self.reason = status.reason.clone().unwrap_or_default();
        self.message = status.message.clone().unwrap_or_default();
        self.has_failed = status.phase.as_deref() == Some("Failed");
        for condition in status.conditions.iter().flatten() {
            match (condition.type_.as_str(), condition.status.as_str()) {
                ("PodScheduled", "True") => self.is_scheduled = true,
                ("PodScheduled", "False") => {
                    self.unschedulable = Some(condition.message.clone().unwrap_or_default());
                }
                ("DisruptionTarget", "True") => {
                    self.disruption = Some(condition.reason.clone().unwrap_or_default());
                }
                _ => {}
            }
        }
        for container in status.init_container_statuses.iter().flatten() {
            self.installer(container);
        }
        let tool = |container: &&ContainerStatus| container.name == CONTAINER;
        let tool = status.container_statuses.iter().flatten().find(tool);
        if let Some(state) = tool.and_then(|container| container.state.as_ref()) {
            self.tool(state);
        }
    }

    fn installer(&mut self, container: &ContainerStatus) {
        let Some(state) = &container.state else { return };
        if let Some(ended) = ended(state).filter(|ended| ended.exit_code != 0) {
            self.ended = Some(Ended {
                is_installer: true,
                ..ended
            });
        }
        self.waiting = waiting(state);
    }

    fn tool(&mut self, state: &ContainerState) {
        self.is_running = state.running.is_some();
        if self.ended.is_none() {
            self.ended = ended(state);
        }
        // Its own `PodInitializing` says less than what the init container waits for.
        if self.waiting.is_none() {
            self.waiting = waiting(state);
        }
    }
}

fn owner(meta: &ObjectMeta) -> Option<String> {
    let owners = meta.owner_references.as_ref()?;
    let job = owners.iter().find(|owner| owner.kind == "Job")?;
    Some(job.uid.clone())
}

fn ended(state: &ContainerState) -> Option<Ended> {
    let ended = state.terminated.as_ref()?;
    Some(Ended {
        exit_code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone().unwrap_or_default(),
        is_installer: false,
    })
}

fn waiting(state: &ContainerState) -> Option<(String, String)> {
    let waiting = state.waiting.as_ref()?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some((text(&waiting.reason), text(&waiting.message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_read_with_its_job_its_node_and_how_its_container_stands() {
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "12",
                "labels": {"batch.kubernetes.io/controller-uid": "j"}},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Failed", "reason": "Evicted", "message": "low on disk",
                "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}],
                "containerStatuses": [{"name": "tool", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}});
        let seen = PodSeen::of(&serde_json::from_value(pod).unwrap());
        assert_eq!(
            (seen.job_uid.as_str(), seen.version, seen.is_scheduled),
            ("j", 12, true)
        );
        assert_eq!(seen.disruption.as_deref(), Some("TerminationByKubelet"));
        assert_eq!(
            seen.ended.map(|ended| (ended.exit_code, ended.reason)),
            Some((137, "OOMKilled".to_owned()))
        );
    }

    #[test]
    fn an_installer_that_waits_or_failed_is_told_and_one_that_is_done_is_not() {
        let seen = |init: serde_json::Value| {
            let state = |name: &str, state: serde_json::Value| {
                json!({"name": name, "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": state})
            };
            let pod = json!({"metadata": {}, "status": {
                "initContainerStatuses": [state("supervisor", init)],
                "containerStatuses": [state("tool", json!({"waiting": {"reason": "PodInitializing"}}))]}});
            PodSeen::of(&serde_json::from_value(pod).unwrap())
        };
        let waits = seen(json!({"waiting": {"reason": "ErrImagePull", "message": "m"}}));
        assert_eq!(waits.waiting, Some(("ErrImagePull".to_owned(), "m".to_owned())));
        let failed = seen(json!({"terminated": {"exitCode": 70}}));
        assert!(failed.ended.is_some_and(|ended| ended.is_installer));
        let done = seen(json!({"terminated": {"exitCode": 0}}));
        assert_eq!(
            (done.ended, done.waiting.map(|waiting| waiting.0)),
            (None, Some("PodInitializing".to_owned()))
        );
    }

    #[test]
    fn a_job_is_read_with_what_it_runs() {
        let job = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "1970-01-01T00:00:05Z", "labels": {"run-id": "00000000-0000-0000-0000-000000000001"},
                "annotations": {"agent-runtime/spec-hash": "h", "agent-runtime/order": "o"}},
            "status": {"conditions": [{"type": "Failed", "status": "True"}]}});
        let seen = JobSeen::of(&serde_json::from_value(job).unwrap());
        assert_eq!(
            (seen.created_at, seen.has_finished, seen.is_deleted),
            (5, true, false)
        );
        assert_eq!(seen.run_id, Some(RunId(uuid::Uuid::from_u128(1))));
        assert_eq!(
            (seen.spec_hash.as_deref(), seen.order.as_deref()),
            (Some("h"), Some("o"))
        );
    }
}
