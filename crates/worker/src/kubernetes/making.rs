//! Getting the Job of a call: a place, then its creation, or the one that is there already.

use super::admission::Permit;
use super::calls::CallError;
use super::class::{Class, Failure};
use super::executor::{Call, unusable};
use super::figures;
use super::job::pod;
use super::seen::JobSeen;
use crate::figures::SandboxInUse;
use crate::transport::Prepared;
use agent::ports::{SandboxError, SandboxEvents};
use domain::breakage::{CrashPoint, crash_at};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::time::Duration;
use tokio::time::Instant;

/// Tries at a server that is busy, before the call stands in line again.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(150);
const LONGEST_BUSY_PAUSE: Duration = Duration::from_secs(5);
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// What admission says of pods that are not secure enough.
const POD_SECURITY: &str = "PodSecurity";
const QUOTA: &str = "exceeded quota";

/// A Job to follow.
#[derive(Debug)]
pub(super) struct MadeJob {
    pub(super) uid: String,
    /// What admission warned of; nothing for an adopted one.
    pub(super) warnings: Vec<String>,
    /// The place it holds; an adopted one has its own.
    pub(super) _place: Option<Permit>,
    pub(super) _in_use: SandboxInUse,
}

#[derive(Debug)]
pub(super) enum Made {
    Job(Box<MadeJob>),
    Failed(Failure),
}

/// How one try at a creation ended.
enum Tried {
    Made(Made),
    /// No room after all.
    Full,
    /// Once more, from the beginning.
    Again,
}

impl<E: SandboxEvents> Call<'_, E> {
    /// Adopts the step's Job or makes it.
    pub(super) async fn make(&mut self) -> Result<Made, SandboxError> {
        let (asked, begun) = (Instant::now(), Instant::now());
        loop {
            // Looked for every time: a full quota is told before a name that is taken, and the last place may be held by
            // this very Job.
            if let Some(job) = self.connected.world.job_named(&self.spec.job_name)
                && let Some(made) = self.adopt(job).await?
            {
                self.admitted().await?;
                return Ok(made);
            }
            let place = self.place().await?;
            figures::phase("queue", asked.elapsed());
            // Before the Job: a pod that finds no order at its start waits long for the next look.
            let prepared = self.prepare().await?;
            match self.create(&prepared, place, begun).await? {
                Tried::Made(made) => {
                    self.admitted().await?;
                    return Ok(made);
                }
                Tried::Again => {}
                Tried::Full => self.connected.admission.refused(),
            }
        }
    }

    /// Waits for a place; the step is shown as waiting meanwhile.
    async fn place(&mut self) -> Result<Permit, SandboxError> {
        let admission = &self.connected.admission;
        if let Some(place) = admission.try_enter(&self.request.user_id) {
            return Ok(place);
        }
        if !std::mem::replace(&mut self.waits, true) {
            self.events.waiting().await?;
        }
        Ok(admission.enter(&self.request.user_id).await)
    }

    /// The wait is over when there is a Job, not before: whoever was let in may meet the quota all the same.
    async fn admitted(&mut self) -> Result<(), SandboxError> {
        if std::mem::replace(&mut self.waits, false) {
            self.events.admitted().await?;
        }
        Ok(())
    }

    /// One creation, with the answers that mean "once more".
    async fn create(
        &mut self,
        prepared: &Prepared,
        mut place: Permit,
        begun: Instant,
    ) -> Result<Tried, SandboxError> {
        let (job, order) = self.manifest().await?;
        let mut busy = 0;
        loop {
            crash_at(CrashPoint::BeforeCreate);
            let asked = Instant::now();
            match self.connected.calls.create_job(&job).await {
                Ok((made, warnings)) => {
                    figures::phase("admission", asked.elapsed());
                    self.connected.world.insist(made.clone());
                    place.has_job();
                    crash_at(CrashPoint::AfterCreate);
                    return self
                        .ordered(prepared, made, (order, warnings, place))
                        .await
                        .map(Tried::Made);
                }
                Err(CallError::Quota(_)) => return Ok(Tried::Full),
                Err(CallError::Busy { after, .. }) => {
                    busy += 1;
                    if busy >= BUSY_TRIES {
                        return Ok(Tried::Full);
                    }
                    tokio::time::sleep(busy_pause(after)).await;
                }
                Err(CallError::AlreadyExists(_)) => return self.there_already().await,
                Err(CallError::Away(error)) => return self.unknown(&error, begun).await,
                Err(CallError::Forbidden(message)) => {
                    return Ok(Tried::Made(Made::Failed(Failure::new(
                        Class::RefusedByAdmission,
                        message,
                    ))));
                }
                Err(CallError::Invalid(message)) => {
                    return Ok(Tried::Made(Made::Failed(Failure::new(
                        Class::BadConfiguration,
                        message,
                    ))));
                }
                Err(error @ (CallError::NotFound | CallError::Conflict(_))) => return Err(unusable(error)),
            }
        }
    }

    /// A Job of ours gets its order; without one it is not left behind.
    async fn ordered(
        &mut self,
        prepared: &Prepared,
        job: JobSeen,
        (order, warnings, place): (String, Vec<String>, Permit),
    ) -> Result<Made, SandboxError> {
        if let Err(error) = self.order(prepared, (&order, &job.uid)).await {
            self.discard(&job.uid).await?;
            return Err(error);
        }
        crash_at(CrashPoint::AfterSecret);
        Ok(Made::Job(Box::new(MadeJob {
            uid: job.uid,
            warnings,
            _place: Some(place),
            _in_use: SandboxInUse::begin(),
        })))
    }

    /// The answer was lost: the Job may be there.
    async fn unknown(&mut self, error: &str, begun: Instant) -> Result<Tried, SandboxError> {
        tracing::warn!(
            job = self.spec.job_name,
            error,
            "whether a Job was made is not known"
        );
        loop {
            if begun.elapsed() >= self.connected.limits.api {
                return Err(SandboxError::Failed(format!(
                    "the API server of the cluster is away: {error}"
                )));
            }
            tokio::time::sleep(AWAY_PAUSE).await;
            match self.connected.calls.job(&self.spec.job_name).await {
                Ok(None) => return Ok(Tried::Again),
                Ok(Some(job)) => return self.found(job).await,
                Err(CallError::Away(_) | CallError::Busy { .. }) => {}
                Err(error) => return Err(unusable(error)),
            }
        }
    }

    async fn there_already(&mut self) -> Result<Tried, SandboxError> {
        let calls = &self.connected.calls;
        let found = self.connected.patiently(|| calls.job(&self.spec.job_name)).await;
        match found.map_err(unusable)? {
            None => Ok(Tried::Again),
            Some(job) => self.found(job).await,
        }
    }

    async fn found(&mut self, job: JobSeen) -> Result<Tried, SandboxError> {
        self.connected.world.insist(job.clone());
        Ok(self.adopt(job).await?.map_or(Tried::Again, Tried::Made))
    }

    /// The Job of this name, made by an earlier attempt or another worker. Nothing when it had to go first.
    async fn adopt(&mut self, job: JobSeen) -> Result<Option<Made>, SandboxError> {
        if job.is_deleted {
            self.until_gone(&job.uid).await?;
            return Ok(None);
        }
        if job.spec_hash.as_deref() != Some(&self.spec.hash) {
            let text = format!("Job {} of this step was made for another call", job.name);
            return Err(SandboxError::Unavailable(text));
        }
        if self.spent.contains(&job.uid) {
            self.discard(&job.uid).await?;
            return Ok(None);
        }
        tracing::info!(job = job.name, uid = job.uid, "a tool's Job is adopted");
        let has_begun = || {
            let pod = self.connected.world.look(&job.uid).pod;
            pod.is_some_and(|pod| pod.is_running || pod.ended.is_some())
        };
        if !job.has_finished && !has_begun() {
            let order = job.order.clone().unwrap_or_default();
            let prepared = self.prepare().await?;
            self.order(&prepared, (&order, &job.uid)).await?;
        }
        Ok(Some(Made::Job(Box::new(MadeJob {
            uid: job.uid,
            warnings: vec![],
            _place: None,
            _in_use: SandboxInUse::begin(),
        }))))
    }

    /// Why a Job makes no pod, when that is for good; else it is a matter of room.
    pub(super) async fn why_silent(&self, job: &MadeJob, rounds: u32) -> Option<Failure> {
        let refused = |text: &str| Some(Failure::new(Class::RefusedByAdmission, text));
        if let Some(warning) = job.warnings.iter().find(|text| text.contains(POD_SECURITY)) {
            return refused(warning);
        }
        let events = self.connected.calls.events_of(&job.uid).await.unwrap_or_default();
        let mut failed = events.iter().filter(|(reason, _)| reason == "FailedCreate");
        if let Some((_, message)) = failed.find(|(_, message)| !message.contains(QUOTA)) {
            return refused(message);
        }
        if let Some(failure) = self.try_pod().await {
            return Some(failure);
        }
        let others = self
            .connected
            .world
            .all_jobs()
            .into_iter()
            .filter(|other| other.uid != job.uid);
        if rounds >= self.connected.limits.no_pod_rounds && others.count() == 0 {
            let message = events.into_iter().map(|(_, message)| message).next_back();
            return refused(message.as_deref().unwrap_or("the Job makes no pod"));
        }
        None
    }

    /// What admission says of the pod itself.
    async fn try_pod(&self) -> Option<Failure> {
        let making = self.making("none".to_owned()).await.ok()?;
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: Some("agent-try-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(pod(&self.spec, &making)),
            status: None,
        };
        match self.connected.calls.try_pod(&pod).await {
            Ok(answer) => {
                let warning = answer
                    .warnings
                    .into_iter()
                    .find(|text| text.contains(POD_SECURITY))?;
                Some(Failure::new(Class::RefusedByAdmission, warning))
            }
            // A right that is missing says nothing of the pod.
            Err(CallError::Forbidden(message)) if message.contains("cannot create resource") => None,
            Err(CallError::Forbidden(message) | CallError::Invalid(message)) => {
                Some(Failure::new(Class::RefusedByAdmission, message))
            }
            Err(_) => None,
        }
    }
}

/// What the server asks for, or a short while; never the same for two callers.
fn busy_pause(after: Option<Duration>) -> Duration {
    let pause = after.unwrap_or(BUSY_PAUSE).min(LONGEST_BUSY_PAUSE);
    pause.mul_f64(0.5 + rand::random::<f64>())
}

/// A Job to try out: another name, because that of the step may be taken.
pub(super) fn trial(job: &Job) -> Job {
    let mut trial = job.clone();
    trial.metadata.name = Some("agent-shell-00000000-00000000-0000000000".to_owned());
    trial
}
