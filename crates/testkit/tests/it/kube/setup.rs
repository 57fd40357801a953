//! A client without a library: the wire itself.

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::eventually_some;
use testkit::kube::{Kind, KubeApi, Options};

pub(super) const LIMIT: Duration = Duration::from_secs(15);
pub(super) const JOBS: &str = "/apis/batch/v1/namespaces/agent-tools/jobs";
pub(super) const PODS: &str = "/api/v1/namespaces/agent-tools/pods";

pub(super) struct Cluster {
    pub(super) api: KubeApi,
    client: Client,
    pub(super) token: Option<String>,
}

impl Cluster {
    pub(super) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(super) async fn with(options: Options) -> Self {
        Self {
            api: KubeApi::start(options).await,
            client: Client::new(),
            token: None,
        }
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Response> {
        let mut request = self.client.request(method, format!("{}{path}", self.api.url()));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let response = self.ask(method, path, body).await.expect("an answer");
        let code = response.status().as_u16();
        let text = response.text().await.expect("a body");
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.json(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.json(Method::POST, path, Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str, options: &Value) -> (u16, Value) {
        self.json(Method::DELETE, path, Some(options)).await
    }

    /// Makes a Job that runs a shell command.
    pub(super) async fn run(&self, name: &str, command: &str) -> Value {
        let (code, job) = self.post(JOBS, &job(name, command)).await;
        assert_eq!(code, 201, "{job}");
        job
    }

    /// The Job's only pod, when it has what is asked for.
    pub(super) async fn pod_with(&self, job: &str, what: impl Fn(&Value) -> bool) -> Value {
        let found = eventually_some(LIMIT, || {
            let pods = self.api.pods_of(job);
            std::future::ready(pods.into_iter().find(|pod| what(pod)))
        });
        found
            .await
            .unwrap_or_else(|| panic!("{job}: {:#?}", self.api.pods_of(job)))
    }

    pub(super) async fn job_with(&self, name: &str, condition: &str) -> Value {
        let found = eventually_some(LIMIT, || {
            let jobs = self.api.objects(Kind::Job).into_iter();
            let job = jobs.filter(|job| job["metadata"]["name"] == name);
            std::future::ready(job.into_iter().find(|job| has(job, condition)))
        });
        found
            .await
            .unwrap_or_else(|| panic!("{:#?}", self.api.objects(Kind::Job)))
    }

    pub(super) async fn no_pods(&self, job: &str) {
        testkit::eventually(LIMIT, || std::future::ready(self.api.pods_of(job).is_empty())).await;
    }
}

pub(super) fn has(object: &Value, condition: &str) -> bool {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter()
        .any(|one| one["type"] == condition && one["status"] == "True")
}

pub(super) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

pub(super) fn state(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]
}

/// As `restricted` wants it.
pub(super) fn job(name: &str, command: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "labels": {"app": "agent-tool"}},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"app": "agent-tool"}}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "workspace", "emptyDir": {}}],
            "containers": [{
                "name": "tool", "image": "agent-tools:phase2b", "command": ["sh", "-c", command],
                "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
                },
            }],
        }}},
    })
}
