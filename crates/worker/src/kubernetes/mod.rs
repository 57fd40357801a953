//! `TOOL_EXECUTOR=kubernetes`: each call of shell and code is a Job in a namespace of its own.
//!
//! | module | owns |
//! | --- | --- |
//! | [`name`], [`spec`], [`job`] | pure: what a call asks for, its hash, its Job |
//! | [`seen`], [`world`], [`watching`] | what the two watches of a worker tell |
//! | [`class`], [`classify`] | pure: where a call stands, and why it failed |
//! | [`calls`], [`answers`], [`mod@connect`] | the closed list of what is asked of the API server, and what it answers |
//! | `admission` | a fair queue in front of the quota |
//! | `executor`, `making`, `follow`, `logs`, `cancel` | one call: its Job, to its end, its log, its stop |
//! | [`reaper`], [`preflight`] | Jobs nobody needs; what `check kubernetes` tries |
//! | `hosts`, [`options`], [`figures`] | the store's addresses; settings; metrics |
//!
//! Invariants:
//! - The Job's name is the same for every attempt: its creation is the lock of the step, and whoever comes later adopts it.
//! - The record in the store is believed, not the log and not the pod; they are asked only where it is missing.
//! - A worker that ends stops following; the Job goes on and the next worker adopts it. Only the end of the run kills it.
//! - No state is waited for without a limit, and no Job of ours is left.

mod admission;
pub mod answers;
pub mod calls;
mod cancel;
pub mod class;
pub mod classify;
pub mod connect;
mod executor;
pub mod figures;
mod follow;
mod hosts;
pub mod job;
mod logs;
mod making;
pub mod name;
pub mod options;
pub mod preflight;
pub mod reaper;
#[cfg(test)]
pub(crate) mod samples;
pub mod seen;
pub mod spec;
pub mod watching;
pub mod world;

pub use options::KubernetesOptions;

use crate::log::with_sources;
use crate::transport::Transport;
use crate::workspace::{StoreOptions, Workspaces};
use admission::Admission;
use agent::ports::{Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest};
use calls::{CallError, Calls};
use domain::ids::RunId;
use domain::{Ids, Redactor};
use executor::Call;
use hosts::Hosts;
use options::Limits;
use spec::Spec;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use world::World;

/// Pauses between two tries at a server that is away.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST_AGAIN: Duration = Duration::from_secs(5);
/// Steps whose leftovers are still to be cleared away.
const REMEMBERED_STEPS: usize = 1000;

/// What the sandbox needs from around it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub workspaces: Workspaces,
    pub store: StoreOptions,
    pub redactor: Arc<Redactor>,
    /// Name of this worker.
    pub worker: String,
    pub ids: Arc<dyn Ids>,
}

/// The way to the cluster, and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) calls: Calls,
    pub(crate) world: World,
    pub(crate) admission: Admission,
    pub(crate) limits: Limits,
}

impl Connected {
    /// Brings what we know of a Job and its pod up to date without the watches.
    pub(crate) async fn read_again(&self, name: &str, uid: &str) -> Result<(), CallError> {
        let (job, pods) = tokio::join!(self.calls.job(name), self.calls.pods_of(uid));
        let (job, pods) = (job?, pods?);
        match job.filter(|job| job.uid == uid) {
            Some(job) => self.world.insist(job),
            None => self.world.forget(uid),
        }
        self.world.insist_pods(uid, pods);
        Ok(())
    }

    /// Asks until there is an answer that says something, as long as the settings allow. Only for what may be done twice.
    pub(crate) async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let (until, mut pause) = (Instant::now() + self.limits.api, AGAIN);
        loop {
            let wait = match ask().await {
                Err(CallError::Busy { after, .. }) if Instant::now() < until => after.unwrap_or(pause),
                Err(CallError::Away(_)) if Instant::now() < until => pause,
                decided => return decided,
            };
            tokio::time::sleep(wait.min(LONGEST_AGAIN).mul_f64(0.5 + rand::random::<f64>())).await;
            pause = (pause * 2).min(LONGEST_AGAIN);
        }
    }
}

/// Jobs in a cluster. Clones share the watches and the queue.
#[derive(Debug, Clone)]
pub struct KubernetesSandbox {
    options: Arc<KubernetesOptions>,
    /// Or why the cluster cannot be talked to, with what to do.
    connected: Arc<Result<Connected, String>>,
    transport: Transport,
    hosts: Hosts,
    worker: String,
    ids: Arc<dyn Ids>,
    /// Jobs with a follower here, by name.
    followed: Arc<Mutex<HashMap<String, usize>>>,
    /// The last call of each run, whose leftovers go when the next begins: then it is settled.
    last: Arc<Mutex<HashMap<RunId, SandboxRequest>>>,
    /// Ends watches and queue with the last clone.
    _stop: Arc<DropGuard>,
}

impl KubernetesSandbox {
    /// Never fails, and asks nothing yet: a cluster that is away is waited for by each call. Watches begin at once.
    pub async fn start(options: &KubernetesOptions, around: Surroundings) -> Self {
        let stop = CancellationToken::new();
        let hosts = Hosts::of(&around.store);
        // Read once more: a file that went since the settings were checked is missed here, not by each pod.
        let authorities = options.authorities();
        let connected = match (Calls::connect(options).await, &authorities) {
            (Err(error), _) => Err(with_sources(&error)),
            (_, Err(fault)) => Err(fault.clone()),
            _ if hosts.is_none() => Err(format!("S3_ENDPOINT: not a URL: {}", around.store.s3_endpoint)),
            (Ok(calls), Ok(_)) => Ok(connect(options, calls, &stop)),
        };
        if let Err(reason) = &connected {
            tracing::warn!(reason, "no cluster for tools: shell and code will fail");
        }
        Self {
            options: Arc::new(options.clone()),
            connected: Arc::new(connected),
            // Without a cluster nothing is transported.
            transport: Transport::new(&around.workspaces, around.redactor)
                .trusting(authorities.unwrap_or_default()),
            hosts: hosts.unwrap_or_default(),
            worker: around.worker,
            ids: around.ids,
            followed: Arc::default(),
            last: Arc::default(),
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        match self.connected.as_ref() {
            Ok(connected) => format!(
                "Kubernetes Jobs in {}, image {}",
                connected.calls.namespace(),
                self.options.tool_image
            ),
            Err(reason) => format!("no sandbox: {reason}"),
        }
    }

    /// Whether the API server is heard; else why calls wait or fail.
    pub fn health(&self) -> Result<(), String> {
        match self.connected.as_ref() {
            Ok(connected) if connected.world.is_heard() => Ok(()),
            Ok(_) => Err("the API server of the cluster is not heard".to_owned()),
            Err(reason) => Err(reason.clone()),
        }
    }

    pub(crate) fn cluster(&self) -> Option<&Connected> {
        self.connected.as_ref().as_ref().ok()
    }

    /// Whether a Job of this name has its follower here.
    pub(crate) fn is_followed(&self, job_name: &str) -> bool {
        self.followed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(job_name)
    }

    fn following(&self, job_name: &str) -> Following {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        *followed.entry(job_name.to_owned()).or_default() += 1;
        Following {
            followed: self.followed.clone(),
            job_name: job_name.to_owned(),
        }
    }

    /// Clears away what the run's last call left, now that another one begins.
    fn forget_last(&self, request: &SandboxRequest) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last
            .remove(&request.run_id)
            .filter(|before| before.step_id != request.step_id);
        let Some(before) = before else { return };
        let transport = self.transport.clone();
        tokio::spawn(async move {
            if let Err(error) = transport.forget(&before).await {
                tracing::debug!(%error, "what a settled step left is not cleared away");
            }
        });
    }

    fn remember(&self, request: &SandboxRequest) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= REMEMBERED_STEPS {
            last.clear();
        }
        let mut request = request.clone();
        // Its text may be long, and only the step counts.
        request.program = agent::ports::Program::Shell {
            command: String::new(),
        };
        last.insert(request.run_id, request);
    }
}

fn connect(options: &KubernetesOptions, calls: Calls, stop: &CancellationToken) -> Connected {
    let world = World::default();
    let admission = Admission::new(calls.clone(), world.clone(), options.k8s_max_jobs);
    tokio::spawn(watching::watch(calls.clone(), world.clone(), stop.clone()));
    tokio::spawn(admission.clone().run(stop.clone()));
    Connected {
        calls,
        world,
        admission,
        limits: options.waits.limits(),
    }
}

/// A call that follows a Job, until dropped.
struct Following {
    followed: Arc<Mutex<HashMap<String, usize>>>,
    job_name: String,
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = followed.get_mut(&self.job_name) {
            *count -= 1;
            if *count == 0 {
                followed.remove(&self.job_name);
            }
        }
    }
}

impl Sandbox for KubernetesSandbox {
    async fn run(
        &self,
        request: &SandboxRequest,
        events: &impl SandboxEvents,
        cancel: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        crate::sandbox::check(request)?;
        let connected = self.connected.as_ref().as_ref().map_err(|reason| {
            let tool = crate::sandbox::tool_name(&request.program);
            SandboxError::Unavailable(format!("{tool} is not available: {reason}"))
        })?;
        let spec = Spec::of(request, &self.options);
        let _following = self.following(&spec.job_name);
        self.forget_last(request);
        let mut call = Call {
            sandbox: self,
            connected,
            request,
            spec: spec.clone(),
            events,
            spent: vec![],
            waits: false,
        };
        let done = tokio::select! {
            biased;
            done = call.run() => done,
            () = cancel.cancelled() => Err(SandboxError::Cancelled),
        };
        if matches!(done, Err(SandboxError::Cancelled)) {
            cancel::stop(connected, &spec, events).await;
        }
        if done.is_ok() {
            self.remember(request);
        }
        done
    }
}
