//! The closed list of what is asked of the API server, each with its own time limit.
//!
//! Two clients: one for short questions, whose connections do not outlive silence, and one for watches and logs. Neither
//! tries again by itself: a creation may have happened although its answer was lost, so [`CallError::Away`] always means
//! "unknown", and who calls decides.

pub use super::answers::{Answer, CallError};
use super::answers::{gone_is_fine, judge, read, status_of};
use super::connect::{ConnectError, config};
use super::job::SELECTOR;
use super::options::KubernetesOptions;
use super::seen::{JobSeen, PodSeen};
use futures::AsyncBufRead;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, ResourceQuota, Secret};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{DeleteParams, GetParams, ListParams, LogParams, PostParams, Preconditions};
use kube::core::{ObjectList, Request};
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use std::time::Duration;

/// Longest time of a short question.
const SHORT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// Silence on a watch or a log after which its connection counts as dead; watches end by themselves before.
const LONG_SILENCE: Duration = Duration::from_secs(270);

/// The API server, for one namespace. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    short: Client,
    long: Client,
    namespace: String,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// What is named in metrics.
type Named = (&'static str, &'static str);

impl Calls {
    /// Nothing is asked yet.
    pub async fn connect(options: &KubernetesOptions) -> Result<Self, ConnectError> {
        Self::to(config(options).await?, &options.k8s_tool_namespace)
    }

    fn to(mut config: Config, namespace: &str) -> Result<Self, ConnectError> {
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        config.reset_reader_on_write = true;
        let mut short = config.clone();
        short.read_timeout = Some(SHORT);
        config.read_timeout = Some(LONG_SILENCE);
        let client = |config| Client::try_from(config).map_err(|error| ConnectError::Client(text(&error)));
        Ok(Self {
            short: client(short)?,
            long: client(config)?,
            namespace: namespace.to_owned(),
        })
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// For a watch.
    pub fn watched<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.long.clone(), &self.namespace)
    }

    fn path<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Request {
        Request::new(K::url_path(&(), Some(&self.namespace)))
    }

    /// Makes a Job; gives it with the warnings of its admission.
    pub async fn create_job(&self, job: &Job) -> Result<(JobSeen, Vec<String>), CallError> {
        let answer = self.create(("create", "jobs"), job, false).await?;
        Ok((JobSeen::of(&read(&answer.body)?), answer.warnings))
    }

    pub async fn job(&self, name: &str) -> Result<Option<JobSeen>, CallError> {
        let request = self.path::<Job>().get(name, &GetParams::default());
        match self.send(("get", "jobs"), request).await {
            Ok(answer) => Ok(Some(JobSeen::of(&read(&answer.body)?))),
            Err(CallError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The pods of a Job.
    pub async fn pods_of(&self, job_uid: &str) -> Result<Vec<PodSeen>, CallError> {
        let params = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={job_uid}"));
        let answer = self
            .send(("list", "pods"), self.path::<Pod>().list(&params))
            .await?;
        let pods = read::<ObjectList<Pod>>(&answer.body)?.items;
        Ok(pods.iter().map(PodSeen::of).collect())
    }

    /// Deletes exactly this Job, and its pod in the background. One that is gone is no error.
    pub async fn delete_job(&self, name: &str, uid: &str) -> Result<(), CallError> {
        let request = self
            .path::<Job>()
            .delete(name, &exactly(DeleteParams::background(), uid));
        gone_is_fine(self.send(("delete", "jobs"), request).await)
    }

    /// Tells a pod to end now instead of when the garbage collector comes to it.
    pub async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), CallError> {
        let request = self
            .path::<Pod>()
            .delete(name, &exactly(DeleteParams::default(), uid));
        gone_is_fine(self.send(("delete", "pods"), request).await)
    }

    /// One that is there already is fine: its name is ours alone.
    pub async fn create_secret(&self, secret: &Secret) -> Result<(), CallError> {
        match self.create(("create", "secrets"), secret, false).await {
            Ok(_) | Err(CallError::AlreadyExists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What admission says of a pod; nothing is made.
    pub async fn try_pod(&self, pod: &Pod) -> Result<Answer, CallError> {
        self.create(("create", "pods"), pod, true).await
    }

    /// What admission says of a Job; nothing is made.
    pub async fn try_job(&self, job: &Job) -> Result<Answer, CallError> {
        self.create(("create", "jobs"), job, true).await
    }

    pub async fn quotas(&self) -> Result<Vec<ResourceQuota>, CallError> {
        let request = self.path::<ResourceQuota>().list(&ListParams::default());
        let answer = self.send(("list", "resourcequotas"), request).await?;
        Ok(read::<ObjectList<ResourceQuota>>(&answer.body)?.items)
    }

    /// Messages of the events about an object, with their reasons.
    pub async fn events_of(&self, uid: &str) -> Result<Vec<(String, String)>, CallError> {
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let answer = self
            .send(("list", "events"), self.path::<Event>().list(&params))
            .await?;
        let events = read::<ObjectList<Event>>(&answer.body)?.items.into_iter();
        Ok(events
            .map(|event| {
                (
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default(),
                )
            })
            .collect())
    }

    /// Any number of Jobs, and the server's clock.
    pub async fn list_jobs(&self) -> Result<Answer, CallError> {
        let request = self
            .path::<Job>()
            .list(&ListParams::default().labels(SELECTOR).limit(1));
        self.send(("list", "jobs"), request).await
    }

    /// Whether we may do this in our namespace.
    pub async fn may(
        &self,
        (group, resource, subresource): (&str, &str, Option<&str>),
        verb: &str,
    ) -> Result<bool, CallError> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.namespace.clone()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SelfSubjectAccessReview::default()
        };
        let path = Request::new(cluster_path::<SelfSubjectAccessReview>());
        let request = path.create(&PostParams::default(), json(&review)?);
        let answer = self.send(("create", "selfsubjectaccessreviews"), request).await?;
        let reviewed: SelfSubjectAccessReview = read(&answer.body)?;
        Ok(reviewed.status.is_some_and(|status| status.allowed))
    }

    /// A pod's log from its start or from a moment, followed; whole seconds, because the server cuts what is finer.
    pub async fn log(
        &self,
        pod: &str,
        since: Option<Timestamp>,
    ) -> Result<impl AsyncBufRead + use<>, CallError> {
        let params = LogParams {
            container: Some(super::job::CONTAINER.to_owned()),
            follow: true,
            timestamps: true,
            since_time: since.and_then(|since| Timestamp::from_second(since.as_second()).ok()),
            ..LogParams::default()
        };
        let request = self.path::<Pod>().logs(pod, &params).map_err(refused_request)?;
        let opened = tokio::time::timeout(SHORT, self.long.request_stream(request)).await;
        let named = ("get", "pods/log");
        match opened {
            Ok(Ok(stream)) => {
                count(named, "200");
                Ok(stream)
            }
            Ok(Err(error)) => Err(failed(named, error)),
            Err(_) => Err(no_answer(named)),
        }
    }

    async fn create<K>(&self, named: Named, object: &K, dry_run: bool) -> Result<Answer, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let params = PostParams {
            dry_run,
            field_manager: None,
        };
        let request = self.path::<K>().create(&params, json(object)?);
        self.send(named, request).await
    }

    /// One question, once.
    async fn send<E: std::error::Error>(
        &self,
        named: Named,
        request: Result<http::Request<Vec<u8>>, E>,
    ) -> Result<Answer, CallError> {
        let request = request.map_err(refused_request)?;
        match tokio::time::timeout(SHORT, self.answered(named, request)).await {
            Ok(answered) => answered,
            Err(_) => Err(no_answer(named)),
        }
    }

    async fn answered(&self, named: Named, request: http::Request<Vec<u8>>) -> Result<Answer, CallError> {
        let sent = self.short.send(request.map(kube::client::Body::from)).await;
        let response = sent.map_err(|error| failed(named, error))?;
        let status = response.status().as_u16();
        count(named, &status.to_string());
        let (parts, body) = response.into_parts();
        let header = |name: &str| {
            let values = parts.headers.get_all(name).iter();
            let texts = values.filter_map(|value| value.to_str().ok().map(str::to_owned));
            texts.collect::<Vec<_>>()
        };
        let (warnings, date, after) = (
            header("warning"),
            header("date").pop(),
            header("retry-after").pop(),
        );
        let body = body.collect_bytes().await;
        let body = body.map_err(|error| CallError::Away(text(&error)))?;
        if status < 300 {
            return Ok(Answer { body, warnings, date });
        }
        let after = after
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        Err(judge(&status_of(&body, status), after))
    }
}

fn cluster_path<K: Resource<DynamicType = (), Scope = ClusterResourceScope>>() -> String {
    K::url_path(&(), None)
}

fn exactly(params: DeleteParams, uid: &str) -> DeleteParams {
    params.preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    })
}

fn json<T: Serialize>(object: &T) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(object).map_err(|error| CallError::Invalid(error.to_string()))
}

fn refused_request(error: impl std::error::Error) -> CallError {
    CallError::Invalid(text(&error))
}

fn text(error: &dyn std::error::Error) -> String {
    crate::log::with_sources(error)
}

fn count((verb, resource): Named, status: &str) {
    metrics::counter!("agent_kubernetes_requests_total", "verb" => verb, "resource" => resource,
        "status" => status.to_owned())
    .increment(1);
}

fn no_answer(named: Named) -> CallError {
    count(named, "none");
    CallError::Away(format!("no answer within {} s", SHORT.as_secs()))
}

fn failed(named: Named, error: kube::Error) -> CallError {
    if let kube::Error::Api(status) = error {
        count(named, &status.code.to_string());
        return judge(&status, None);
    }
    count(named, "none");
    CallError::Away(text(&error))
}

#[cfg(test)]
mod tests;
