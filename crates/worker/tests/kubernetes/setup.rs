//! A cluster, a store, and workers on them.

use agent::ports::{
    OutputPiece, OutputStream, Program, Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest,
};
use clap::Parser;
use domain::{Ids, RunId, StepId, SystemIds, UserId};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::kube::{Delays, Kind, KubeApi, Options};
use testkit::{S3, bin, eventually, eventually_some};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::kubernetes::spec::Spec;
use worker::kubernetes::{KubernetesOptions, KubernetesSandbox, Surroundings};
use worker::sandbox::AnySandbox;
use worker::workspace::{S3Options, Workspaces};

/// For what needs a second or two when the machine is idle.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Everything but a worker.
pub(crate) struct Bed {
    pub(crate) api: KubeApi,
    pub(crate) s3: S3,
}

#[derive(Debug, Parser)]
struct Settings {
    #[command(flatten)]
    kubernetes: KubernetesOptions,
    #[command(flatten)]
    s3: S3Options,
}

/// A worker's sandbox; dropped, its watches end as those of a worker that is killed.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) sandbox: AnySandbox,
    pub(crate) workspaces: Workspaces,
    options: Arc<KubernetesOptions>,
}

/// A call under way; dropped without [`Running::end`], it goes on.
pub(crate) struct Running {
    pub(crate) request: SandboxRequest,
    pub(crate) job: String,
    pub(crate) heard: Heard,
    pub(crate) cancel: CancellationToken,
    task: JoinHandle<Result<SandboxOutput, SandboxError>>,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let s3 = S3::start().await;
        let mut options = Options {
            supervisor: Some(bin("agent-tool-supervisor")),
            reach: vec![s3.port()],
            delays: Delays::short(),
            ..Options::default()
        };
        change(&mut options);
        Self {
            api: KubeApi::start(options).await,
            s3,
        }
    }

    /// A worker; settings as on its command line, after those that lead it here.
    pub(crate) async fn worker(&self, more: &[&str]) -> Worker {
        let kubeconfig = self.api.kubeconfig().display().to_string();
        let endpoint = self.s3.endpoint();
        let mut line = vec!["test", "--k8s-in-cluster", "false", "--kubeconfig", &kubeconfig];
        line.extend([
            "--s3-endpoint",
            &endpoint,
            "--s3-workspace-bucket",
            self.s3.bucket(),
        ]);
        line.extend([
            "--s3-access-key",
            self.s3.access_key(),
            "--s3-secret-key",
            self.s3.secret_key(),
        ]);
        line.extend(more);
        worker_of(&line).await
    }

    /// Nothing of any call is left in the cluster.
    pub(crate) async fn is_empty(&self) {
        let left = || -> Vec<String> {
            let all = [Kind::Job, Kind::Pod, Kind::Secret].map(|kind| self.api.objects(kind));
            let told = |object: &Value| {
                let meta = &object["metadata"];
                format!(
                    "{} {} {}, status {}",
                    object["kind"], meta["name"], meta["uid"], object["status"]
                )
            };
            all.iter().flatten().map(told).collect()
        };
        let empty = eventually_some(LIMIT, || std::future::ready(left().is_empty().then_some(())));
        assert!(empty.await.is_some(), "{:#?}", left());
        assert_eq!(self.api.quota_used("count/jobs.batch"), "0");
    }

    pub(crate) async fn started(&self, job: &str) {
        eventually(LIMIT, || std::future::ready(self.api.starts(job) > 0)).await;
    }

    pub(crate) async fn pod_with(&self, job: &str, what: impl Fn(&Value) -> bool) -> Value {
        let found = eventually_some(LIMIT, || {
            std::future::ready(self.api.pods_of(job).into_iter().find(|pod| what(pod)))
        });
        found
            .await
            .unwrap_or_else(|| panic!("{job}: {:#?}", self.api.pods_of(job)))
    }

    /// The pod runs as far as the server knows.
    pub(crate) async fn running(&self, job: &str) {
        self.pod_with(job, |pod| pod["status"]["phase"] == "Running")
            .await;
    }

    pub(crate) fn job(&self, name: &str) -> Option<Value> {
        let jobs = self.api.objects(Kind::Job).into_iter();
        jobs.into_iter().find(|job| job["metadata"]["name"] == name)
    }
}

/// A worker with these settings.
pub(crate) async fn worker_of(line: &[&str]) -> Worker {
    let settings = Settings::parse_from(line);
    let workspaces = Workspaces::from_options(&settings.s3);
    let around = Surroundings {
        workspaces: workspaces.clone(),
        store: settings.s3.store.clone(),
        redactor: Arc::default(),
        worker: "test".to_owned(),
        ids: Arc::new(SystemIds),
    };
    let sandbox = KubernetesSandbox::start(&settings.kubernetes, around).await;
    Worker {
        sandbox: AnySandbox::Kubernetes(Box::new(sandbox)),
        workspaces,
        options: Arc::new(settings.kubernetes),
    }
}

/// A request of a run of its own.
pub(crate) fn shell(command: &str) -> SandboxRequest {
    shell_of("auth0|one", command)
}

pub(crate) fn shell_of(user: &str, command: &str) -> SandboxRequest {
    SandboxRequest {
        run_id: RunId(SystemIds.uuid()),
        step_id: StepId(SystemIds.uuid()),
        user_id: UserId::from(user),
        program: Program::Shell {
            command: command.to_owned(),
        },
        working_dir: "/workspace".to_owned(),
        timeout: Duration::from_mins(1),
    }
}

impl Worker {
    pub(crate) fn job_name(&self, request: &SandboxRequest) -> String {
        Spec::of(request, &self.options).job_name
    }

    /// Starts a call.
    pub(crate) fn begin(&self, request: &SandboxRequest) -> Running {
        self.begin_with(request, Heard::default())
    }

    pub(crate) fn begin_with(&self, request: &SandboxRequest, heard: Heard) -> Running {
        let cancel = CancellationToken::new();
        let (sandbox, asked) = (self.sandbox.clone(), request.clone());
        let (events, token) = (heard.clone(), cancel.clone());
        Running {
            request: request.clone(),
            job: self.job_name(request),
            heard,
            cancel,
            task: tokio::spawn(async move { sandbox.run(&asked, &events, &token).await }),
        }
    }

    pub(crate) async fn run(&self, request: &SandboxRequest) -> Result<SandboxOutput, SandboxError> {
        self.begin(request).end().await
    }
}

impl Running {
    pub(crate) async fn end(self) -> Result<SandboxOutput, SandboxError> {
        let ended = tokio::time::timeout(LIMIT * 6, self.task).await;
        ended
            .unwrap_or_else(|_| panic!("{} does not end", self.job))
            .expect("it does not panic")
    }

    /// As when the worker is killed: nothing is tidied up.
    pub(crate) async fn abandon(self) {
        self.task.abort();
        drop(self.task.await);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

/// Hears what a sandbox tells.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pieces: Arc<Mutex<Vec<OutputPiece>>>,
    pub(crate) waits: Arc<AtomicU32>,
    pub(crate) admissions: Arc<AtomicU32>,
    /// Whether the run has ended, when it is asked.
    pub(crate) over: Arc<AtomicBool>,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            pieces: Arc::default(),
            waits: Arc::default(),
            admissions: Arc::default(),
            over: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Heard {
    pub(crate) fn pieces(&self, stream: OutputStream) -> Vec<OutputPiece> {
        let all = self.pieces.lock().unwrap();
        all.iter()
            .filter(|piece| piece.stream == stream)
            .cloned()
            .collect()
    }

    pub(crate) fn text(&self, stream: OutputStream) -> String {
        self.pieces(stream).into_iter().map(|piece| piece.text).collect()
    }
}

impl SandboxEvents for Heard {
    async fn waiting(&self) -> Result<(), SandboxError> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn admitted(&self) -> Result<(), SandboxError> {
        self.admissions.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn output(&self, piece: OutputPiece) {
        self.pieces.lock().unwrap().push(piece);
    }

    async fn has_ended(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// Asserts that a call ended with a text that begins so.
#[track_caller]
pub(crate) fn fails_with(ended: Result<SandboxOutput, SandboxError>, start: &str) {
    match ended {
        Err(error) => assert!(error.to_string().starts_with(start), "{error:?}"),
        Ok(output) => panic!("{output:?}"),
    }
}

/// Asserts an exit with code 0 and this output.
#[track_caller]
pub(crate) fn says(ended: Result<SandboxOutput, SandboxError>, stdout: &str) {
    let output = ended.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(
        (output.exit_code, output.stdout.as_str()),
        (Some(0), stdout),
        "{output:?}"
    );
}
