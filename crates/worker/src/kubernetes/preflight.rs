//! `agent-worker check kubernetes`: everything a call needs, tried out, one line each.

use super::KubernetesOptions;
use super::calls::{CallError, Calls};
use super::hosts::Hosts;
use super::job::{Making, manifest, pod};
use super::making::trial;
use super::seen::JobSeen;
use super::spec::Spec;
use crate::log::with_sources;
use crate::workspace::{Objects, S3Options, Workspaces};
use agent::ports::{Program, SandboxRequest};
use bytes::Bytes;
use domain::{Clock, Ids, RunId, StepId, SystemClock, SystemIds, UserId};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeSet;
use std::time::Duration;

/// Clocks further apart make presigned URLs fail.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(1);
const IMAGE_LIMIT: Duration = Duration::from_mins(1);
const IMAGE_LOOK: Duration = Duration::from_millis(500);
const COUNT_JOBS: &str = "count/jobs.batch";

/// Group, resource, subresource and verbs: all that we ever do.
const RIGHTS: [(&str, &str, Option<&str>, &[&str]); 7] = [
    (
        "batch",
        "jobs",
        None,
        &["create", "get", "list", "watch", "delete"],
    ),
    ("", "pods", None, &["create", "get", "list", "watch", "delete"]),
    ("", "pods", Some("log"), &["get"]),
    ("", "events", None, &["get", "list", "watch"]),
    ("", "resourcequotas", None, &["get", "list", "watch"]),
    ("", "configmaps", None, &["create", "delete"]),
    ("", "secrets", None, &["create", "delete"]),
];

/// One check: what it is about, and good news or what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub name: String,
    pub result: Result<String, String>,
}

fn line(name: impl Into<String>, result: Result<String, String>) -> Line {
    Line {
        name: name.into(),
        result,
    }
}

/// Runs every check. Makes one Job per image, which only tells the supervisor's version, and deletes it again.
pub async fn lines(options: &KubernetesOptions, s3: &S3Options) -> Vec<Line> {
    let store = line("store", store(s3).await);
    let calls = match Calls::connect(options).await {
        Ok(calls) => calls,
        Err(error) => return vec![line("api", Err(with_sources(&error))), store],
    };
    let preflight = Preflight {
        calls,
        options,
        hosts: Hosts::of(&s3.store),
    };
    let mut lines = preflight.server().await;
    // Without an answer the rest would only say the same.
    if lines.iter().all(|line| line.name != "api" || line.result.is_ok()) {
        lines.extend(preflight.rights().await);
        lines.push(line("quota", preflight.quota().await));
        lines.push(line("hosts", preflight.hosts().await));
        lines.push(line("dry run of a pod", preflight.pod().await));
        lines.push(line("dry run of a Job", preflight.job().await));
    }
    lines.push(store);
    // A Job that could not run, or not be deleted, tells nothing of its image.
    if lines.iter().all(|line| line.result.is_ok()) {
        lines.extend(preflight.images().await);
    } else {
        lines.push(line(
            "image",
            Err("not tried: mend the lines above first".to_owned()),
        ));
    }
    lines
}

struct Preflight<'a> {
    calls: Calls,
    options: &'a KubernetesOptions,
    hosts: Option<Hosts>,
}

impl Preflight<'_> {
    /// Whether it answers, and how far its clock is from ours.
    async fn server(&self) -> Vec<Line> {
        let namespace = self.calls.namespace();
        match self.calls.list_jobs().await {
            Ok(answer) => {
                let skew = skew(answer.date.as_deref(), SystemClock.now());
                let answers = format!("answers for namespace {namespace}");
                vec![line("api", Ok(answers)), line("clock", skew)]
            }
            // It answers; what is missing is told with the rights.
            Err(CallError::Forbidden(_)) => vec![line("api", Ok("answers".to_owned()))],
            Err(error) => vec![line("api", Err(error.to_string()))],
        }
    }

    async fn rights(&self) -> Vec<Line> {
        let mut lines = vec![];
        for (group, resource, subresource, verbs) in RIGHTS {
            let shown = subresource.map_or(resource.to_owned(), |sub| format!("{resource}/{sub}"));
            for verb in verbs {
                let result = match self.calls.may((group, resource, subresource), verb).await {
                    Ok(true) => Ok("allowed".to_owned()),
                    Ok(false) => Err(format!(
                        "not allowed in {}: apply k8s/rbac.yaml",
                        self.calls.namespace()
                    )),
                    Err(error) => Err(error.to_string()),
                };
                lines.push(line(format!("{verb} {shown}"), result));
            }
        }
        lines
    }

    async fn quota(&self) -> Result<String, String> {
        let quotas = self.calls.quotas().await.map_err(|error| error.to_string())?;
        for quota in quotas {
            let status = quota.status.unwrap_or_default();
            let of = |of: Option<std::collections::BTreeMap<String, _>>| {
                let quantity: k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                    of?.remove(COUNT_JOBS)?;
                Some(quantity.0)
            };
            if let Some(hard) = of(status.hard) {
                let used = of(status.used).unwrap_or_else(|| "0".to_owned());
                return Ok(format!("{used} of {hard} Jobs are used"));
            }
        }
        let namespace = self.calls.namespace();
        Err(format!(
            "no quota on {COUNT_JOBS} in {namespace}: apply k8s/resource-quota.yaml"
        ))
    }

    async fn hosts(&self) -> Result<String, String> {
        let hosts = self.hosts.as_ref().ok_or("S3_ENDPOINT is not a URL")?;
        let found = hosts.resolve().await?;
        Ok(match found.first() {
            Some((_, name)) => format!("{} addresses for {name}", found.len()),
            None => "the object store has no name to look up".to_owned(),
        })
    }

    async fn making(&self) -> Making {
        let hosts = match &self.hosts {
            Some(hosts) => hosts.resolve().await.unwrap_or_default(),
            None => vec![],
        };
        Making {
            order: "agent-order-none".to_owned(),
            worker: "check".to_owned(),
            traceparent: None,
            runtime_class: self
                .options
                .k8s_runtime_class
                .clone()
                .filter(|class| !class.is_empty()),
            supervisor_image: self.options.tool_image.clone(),
            hosts,
        }
    }

    fn spec(&self, program: Program) -> Spec {
        let none = uuid::Uuid::nil();
        let request = SandboxRequest {
            run_id: RunId(none),
            step_id: StepId(none),
            user_id: UserId::from("check"),
            program,
            working_dir: "/workspace".to_owned(),
            timeout: Duration::from_secs(1),
        };
        Spec::of(&request, self.options)
    }

    fn shell(&self) -> Spec {
        self.spec(Program::Shell {
            command: "true".to_owned(),
        })
    }

    async fn pod(&self) -> Result<String, String> {
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: Some("agent-try-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(pod(&self.shell(), &self.making().await)),
            status: None,
        };
        unwarned(self.calls.try_pod(&pod).await)
    }

    async fn job(&self) -> Result<String, String> {
        let job = trial(&manifest(&self.shell(), &self.making().await));
        unwarned(self.calls.try_job(&job).await)
    }

    /// Each image starts its supervisor.
    async fn images(&self) -> Vec<Line> {
        let code = |language: &str| Program::Code {
            language: language.to_owned(),
            code: String::new(),
        };
        let languages =
            ["python", "javascript", "bash", "ruby", "go"].map(|language| self.spec(code(language)));
        let (mut seen, mut lines) = (BTreeSet::new(), vec![]);
        for spec in std::iter::once(self.shell()).chain(languages) {
            if seen.insert(spec.image.clone()) {
                lines.push(line(format!("image {}", spec.image), self.image(&spec).await));
            }
        }
        lines
    }

    async fn image(&self, spec: &Spec) -> Result<String, String> {
        let job = self.version_job(spec).await;
        let made = match self.calls.create_job(&job).await {
            Ok((made, _)) => made,
            Err(CallError::Quota(_)) => return Ok("not tried: the quota is used up".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let tried = tokio::time::timeout(IMAGE_LIMIT, self.until_ended(&made)).await;
        if let Err(error) = self.calls.delete_job(&made.name, &made.uid).await {
            return Err(format!("Job {} is not deleted: {error}", made.name));
        }
        tried.unwrap_or_else(|_| Err(format!("not started within {} s", IMAGE_LIMIT.as_secs())))
    }

    /// A Job that mounts no order and only tells a version.
    async fn version_job(&self, spec: &Spec) -> Job {
        let mut job = manifest(spec, &self.making().await);
        let random = SystemIds.uuid().simple().to_string();
        let tail = random.get(..10).unwrap_or_default();
        job.metadata.name = Some(format!("agent-{}-00000000-00000000-{tail}", spec.tool.as_str()));
        if let Some(pod) = &mut job.spec.get_or_insert_default().template.spec {
            for container in &mut pod.containers {
                container.args = Some(vec!["--version".to_owned()]);
                container
                    .volume_mounts
                    .get_or_insert_default()
                    .retain(|mount| mount.name != "order");
            }
            pod.volumes
                .get_or_insert_default()
                .retain(|volume| volume.name != "order");
        }
        job
    }

    async fn until_ended(&self, job: &JobSeen) -> Result<String, String> {
        loop {
            tokio::time::sleep(IMAGE_LOOK).await;
            let pods = self
                .calls
                .pods_of(&job.uid)
                .await
                .map_err(|error| error.to_string())?;
            let Some(pod) = pods.first() else { continue };
            match (&pod.ended, &pod.waiting) {
                (Some(ended), _) if ended.exit_code == 0 => return Ok("its supervisor starts".to_owned()),
                (Some(ended), _) => {
                    let said = [ended.reason.as_str(), ended.message.as_str()].join(" ");
                    return Err(format!(
                        "its supervisor ended with code {}: {said}",
                        ended.exit_code
                    ));
                }
                (None, Some((reason, message))) if is_final(reason) => {
                    return Err(format!("{reason}: {message}"));
                }
                _ => {}
            }
        }
    }
}

/// Nothing better comes of these.
fn is_final(reason: &str) -> bool {
    ["Err", "BackOff", "Invalid", "Error"]
        .iter()
        .any(|part| reason.contains(part))
}

fn unwarned(answer: Result<super::calls::Answer, CallError>) -> Result<String, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.warnings.is_empty() {
        return Ok("taken without a warning".to_owned());
    }
    Err(answer.warnings.join("; "))
}

/// `date` is the header's, with whole seconds.
fn skew(date: Option<&str>, now: Timestamp) -> Result<String, String> {
    let date = date.ok_or("the API server does not tell its time")?;
    let server = jiff::fmt::rfc2822::parse(date).map_err(|error| error.to_string())?;
    let apart = server.timestamp().duration_since(now).abs();
    if apart > MAX_SKEW {
        return Err(format!(
            "{} s from the API server's: presigned URLs will fail",
            apart.as_secs()
        ));
    }
    Ok(format!("within {} s of the API server's", apart.as_secs().max(1)))
}

/// Puts, reads and deletes an object.
async fn store(s3: &S3Options) -> Result<String, String> {
    let workspaces = Workspaces::from_options(s3);
    let Some(objects) = workspaces.objects() else {
        return Err("not configured: set S3_ACCESS_KEY and S3_SECRET_KEY".to_owned());
    };
    let key = format!(".agent/check-{}", SystemIds.uuid());
    let tried = tokio::time::timeout(Duration::from_secs(10), round_trip(objects, &key)).await;
    tried.unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
}

async fn round_trip(objects: &Objects, key: &str) -> Result<String, String> {
    let failed = |error: agent::ports::WorkspaceError| with_sources(&error);
    let put = objects.put(key, Bytes::from_static(b"check"), "text/plain").await;
    put.map_err(failed)?;
    let read = objects.get(key).await.map_err(failed)?;
    objects.delete(&[key.to_owned()]).await.map_err(failed)?;
    if read.as_deref() == Some(b"check") {
        Ok(format!("bucket {} keeps what it is given", objects.bucket()))
    } else {
        Err(format!("bucket {} gives back something else", objects.bucket()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_apart_are_told() {
        let now: Timestamp = "2026-11-20T17:00:00Z".parse().unwrap();
        assert!(skew(Some("Fri, 20 Nov 2026 17:00:30 GMT"), now).is_ok());
        let fault = skew(Some("Fri, 20 Nov 2026 16:50:00 GMT"), now).unwrap_err();
        assert!(fault.starts_with("600 s"), "{fault}");
        assert!(skew(None, now).is_err() && skew(Some("yesterday"), now).is_err());
    }

    #[test]
    fn reasons_that_stay_are_told_from_those_that_pass() {
        for reason in [
            "ErrImagePull",
            "ImagePullBackOff",
            "InvalidImageName",
            "CreateContainerConfigError",
        ] {
            assert!(is_final(reason), "{reason}");
        }
        assert!(!is_final("ContainerCreating") && !is_final("PodInitializing"));
    }
}
