//! One call from its order to its result: record? place, Job, order, follow, collect, delete.
//!
//! Every step may be repeated by another worker that took the run over: the record in the store comes before everything,
//! then the Job of this name, and only when there is neither a Job is made.

use super::calls::CallError;
use super::class::{Class, Failure};
use super::follow::{End, Follow};
use super::job::{Making, manifest, order_secret};
use super::making::Made;
use super::name::order_name;
use super::options::RUN_RESERVE;
use super::spec::Spec;
use super::{Connected, KubernetesSandbox, figures};
use crate::transport::Prepared;
use agent::ports::{SandboxError, SandboxEvents, SandboxOutput, SandboxRequest, WorkspaceError};
use domain::breakage::{CrashPoint, crash_at};
use std::time::Duration;
use tokio::time::Instant;
use toolbox::wire::{Ending, FailureClass, Record};

/// Times a call whose pod was taken away is begun anew.
const DISRUPTIONS: u32 = 3;
/// URLs are good for this much longer than anything should take.
const URL_RESERVE: Duration = Duration::from_mins(5);
/// Shells tell the end by signal n as exit code 128 + n.
const SIGNALLED: i32 = 128;
const KILLED: i32 = 137;

/// One call under way.
#[derive(Debug)]
pub(super) struct Call<'a, E> {
    pub(super) sandbox: &'a KubernetesSandbox,
    pub(super) connected: &'a Connected,
    pub(super) request: &'a SandboxRequest,
    pub(super) spec: Spec,
    pub(super) events: &'a E,
    /// Jobs of former attempts that are not to be adopted.
    pub(super) spent: Vec<String>,
    /// The step is shown as waiting for room.
    pub(super) waits: bool,
}

impl<E: SandboxEvents> Call<'_, E> {
    pub(super) async fn run(&mut self) -> Result<SandboxOutput, SandboxError> {
        if let Some(record) = self.former_record().await? {
            // Its Job was left by a worker that was lost, and holds a place until it is deleted.
            let output = self.settle(&record).await;
            self.delete(&record.job_uid).await;
            return output;
        }
        let (mut disruptions, mut silent) = (0, 0);
        loop {
            let made = self.make().await?;
            let end = match made {
                Made::Job(job) => {
                    let end = self.follow(&job.uid).await?;
                    (job, end)
                }
                Made::Failed(failure) => return self.failed(&failure),
            };
            match end {
                (job, End::Record(record)) => {
                    let output = self.settle(&record).await;
                    self.delete(&job.uid).await;
                    return output;
                }
                (job, End::Failed(failure)) if failure.class.is_disruption() && disruptions < DISRUPTIONS => {
                    tracing::warn!(job = self.spec.job_name, %failure, "a tool's pod was taken away, it is begun anew");
                    figures::failed(&failure);
                    disruptions += 1;
                    self.discard(&job.uid).await?;
                }
                (job, End::Failed(failure)) => {
                    self.delete(&job.uid).await;
                    return self.failed(&failure);
                }
                (job, End::Silent) => {
                    silent += 1;
                    let refused = self.why_silent(&job, silent).await;
                    self.discard(&job.uid).await?;
                    if let Some(failure) = refused {
                        return self.failed(&failure);
                    }
                    self.connected.admission.refused();
                }
            }
        }
    }

    /// The record of an attempt that has ended. One that says cancelled, or that the machinery failed, settles nothing: this
    /// run was not stopped, and another attempt may end better.
    async fn former_record(&mut self) -> Result<Option<Record>, SandboxError> {
        let Some(record) = self
            .sandbox
            .transport
            .record(self.request, &self.spec.hash)
            .await?
        else {
            return Ok(None);
        };
        let again = match &record.ending {
            Ending::Cancelled => true,
            // The tool ran, only its files are not kept.
            Ending::Failed { .. } if record.unkept.is_some() => false,
            Ending::Failed { class, .. } => matches!(class, FailureClass::Internal | FailureClass::Workspace),
            _ => false,
        };
        if !again {
            return Ok(Some(record));
        }
        self.sandbox.transport.forget(self.request).await?;
        self.spent.push(record.job_uid);
        Ok(None)
    }

    /// Brings the input into the store.
    pub(super) async fn prepare(&self) -> Result<Prepared, SandboxError> {
        crash_at(CrashPoint::BeforePrepare);
        let prepared = self
            .sandbox
            .transport
            .prepare(self.request, &self.spec.hash)
            .await?;
        crash_at(CrashPoint::AfterPrepare);
        Ok(prepared)
    }

    /// Gives the supervisor its order.
    pub(super) async fn order(
        &self,
        prepared: &Prepared,
        (secret, uid): (&str, &str),
    ) -> Result<(), SandboxError> {
        let valid_for = self.connected.limits.start() + self.request.timeout + RUN_RESERVE + URL_RESERVE;
        let order = self
            .sandbox
            .transport
            .order(prepared, self.request, uid, valid_for)
            .await?;
        let order = serde_json::to_string(&order).map_err(|error| SandboxError::Failed(error.to_string()))?;
        let secret = order_secret(&self.spec, (secret, uid), order);
        self.connected
            .patiently(|| self.connected.calls.create_secret(&secret))
            .await
            .map_err(unusable)
    }

    async fn follow(&self, uid: &str) -> Result<End, SandboxError> {
        Follow {
            connected: self.connected,
            transport: &self.sandbox.transport,
            request: self.request,
            spec: &self.spec,
            job_uid: uid,
            events: self.events,
        }
        .to_end()
        .await
    }

    /// From the record to the result; its files are stored when this returns.
    async fn settle(&self, record: &Record) -> Result<SandboxOutput, SandboxError> {
        let spent = |ms: u64| Duration::from_millis(ms);
        figures::phase("run", spent(record.durations.run_ms));
        figures::phase("upload", spent(record.durations.upload_ms));
        let output = self.sandbox.transport.collect(self.request, record).await;
        crash_at(CrashPoint::AfterApply);
        output
    }

    /// What a call without record is told as.
    fn failed(&self, failure: &Failure) -> Result<SandboxOutput, SandboxError> {
        tracing::warn!(job = self.spec.job_name, class = failure.class.as_str(), %failure, "a tool's Job failed");
        figures::failed(failure);
        outcome(failure)
    }

    /// Deletes the Job, whose result is known. What cannot be deleted now is found by the reaper.
    async fn delete(&self, uid: &str) {
        crash_at(CrashPoint::BeforeDelete);
        let name = &self.spec.job_name;
        let deleted = self
            .connected
            .patiently(|| self.connected.calls.delete_job(name, uid))
            .await;
        match deleted {
            // Its place is free, whatever the watch says of it yet.
            Ok(()) => self.connected.world.forget(uid),
            Err(error) => tracing::warn!(job = name, %error, "a tool's Job is not deleted"),
        }
        crash_at(CrashPoint::AfterDelete);
    }

    /// Deletes a Job that is made anew, and waits until its name is free.
    pub(super) async fn discard(&mut self, uid: &str) -> Result<(), SandboxError> {
        self.spent.push(uid.to_owned());
        let name = &self.spec.job_name;
        let deleted = self
            .connected
            .patiently(|| self.connected.calls.delete_job(name, uid))
            .await;
        deleted.map_err(unusable)?;
        self.until_gone(uid).await
    }

    /// By the watch, and now and then by asking.
    pub(super) async fn until_gone(&self, uid: &str) -> Result<(), SandboxError> {
        const ASK_EVERY: Duration = Duration::from_secs(3);
        let until = Instant::now() + self.connected.limits.api;
        while !self.connected.world.gone(uid, ASK_EVERY).await {
            match self.connected.calls.job(&self.spec.job_name).await {
                Ok(Some(job)) if job.uid == uid => {}
                Ok(_) => self.connected.world.forget(uid),
                Err(error) => tracing::debug!(%error, "a Job that was deleted cannot be asked for"),
            }
            if Instant::now() >= until {
                return Err(SandboxError::Failed(format!(
                    "Job {} is not deleted",
                    self.spec.job_name
                )));
            }
        }
        Ok(())
    }

    /// The Job of this call with a Secret's name of its own.
    pub(super) async fn manifest(&self) -> Result<(k8s_openapi::api::batch::v1::Job, String), SandboxError> {
        let random = self.sandbox.ids.uuid().simple().to_string();
        // The end: such an id begins with the time, which is the same for a minute.
        let order = order_name(&self.spec.job_name, random.get(24..).unwrap_or_default());
        let making = self.making(order.clone()).await?;
        Ok((manifest(&self.spec, &making), order))
    }

    pub(super) async fn making(&self, order: String) -> Result<Making, SandboxError> {
        let hosts = self.sandbox.hosts.resolve().await.map_err(SandboxError::Failed)?;
        let options = &self.sandbox.options;
        Ok(Making {
            order,
            worker: self.sandbox.worker.clone(),
            traceparent: self.events.traceparent(),
            runtime_class: options
                .k8s_runtime_class
                .clone()
                .filter(|class| !class.is_empty()),
            supervisor_image: options.tool_image.clone(),
            hosts,
        })
    }
}

/// An API server that refuses or does not answer, where that is no class of the closed list.
pub(super) fn unusable(error: CallError) -> SandboxError {
    match error {
        CallError::Forbidden(message) | CallError::Invalid(message) => {
            outcome(&Failure::new(Class::RefusedByAdmission, message))
                .err()
                .unwrap_or(SandboxError::Cancelled)
        }
        other => SandboxError::Failed(other.to_string()),
    }
}

/// What a failure is told as: an end of the program, where that is what is known of it, or why there is none.
pub(super) fn outcome(failure: &Failure) -> Result<SandboxOutput, SandboxError> {
    let ended = |exit_code, timed_out, by: String| SandboxOutput {
        stdout: String::new(),
        stderr: String::new(),
        truncated: true,
        exit_code,
        timed_out,
        ended_by: Some(by),
        duration_ms: 0,
        artifacts: vec![],
        unkept: None,
        ephemeral_workspace: false,
        changes: vec![],
        warnings: vec![failure.to_string()],
    };
    let text = failure.to_string();
    match failure.class {
        Class::Timeout => Ok(ended(None, true, "time limit".to_owned())),
        Class::OutOfMemory => Ok(ended(Some(KILLED), false, "out of memory".to_owned())),
        Class::Signal(signal) => Ok(ended(Some(SIGNALLED + signal), false, text)),
        Class::ExitCode(code) => Ok(ended(Some(code), false, text)),
        Class::Cancelled => Err(SandboxError::Cancelled),
        Class::Workspace => Err(SandboxError::Workspace(WorkspaceError::Storage(text))),
        Class::Internal
        | Class::Evicted
        | Class::NodeLost
        | Class::ImageNotPulled
        | Class::BadImageName
        | Class::BadConfiguration
        | Class::Unschedulable
        | Class::Quota
        | Class::RefusedByAdmission => Err(SandboxError::Unavailable(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_an_end_is_told_as_the_local_sandbox_tells_it() {
        let told = |class| {
            let output = outcome(&Failure::new(class, "")).unwrap();
            (
                output.exit_code,
                output.timed_out,
                output.ended_by.unwrap_or_default(),
            )
        };
        assert_eq!(told(Class::Timeout), (None, true, "time limit".to_owned()));
        assert_eq!(
            told(Class::OutOfMemory),
            (Some(137), false, "out of memory".to_owned())
        );
        assert!(told(Class::Signal(9)).2.starts_with("Killed by signal 9"));
        assert!(told(Class::ExitCode(7)).2.starts_with("Exited with code 7"));
    }

    #[test]
    fn a_cluster_that_cannot_run_it_is_told_to_the_model_and_a_store_that_is_away_is_tried_again() {
        let error = |class| outcome(&Failure::new(class, "said")).unwrap_err();
        let unavailable = error(Class::ImageNotPulled);
        assert_eq!(unavailable.to_string(), "The tool's image cannot be pulled: said");
        assert!(matches!(
            error(Class::Workspace),
            SandboxError::Workspace(WorkspaceError::Storage(_))
        ));
        assert!(matches!(error(Class::Evicted), SandboxError::Unavailable(_)));
    }
}
