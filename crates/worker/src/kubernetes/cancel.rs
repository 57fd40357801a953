//! The end of a call that was cancelled: of a run that has ended the Job is killed, any other goes on without us.

use super::Connected;
use super::spec::Spec;
use agent::ports::SandboxEvents;
use std::time::Duration;

/// A creation that was under way when the call was dropped is done by then, or will not be.
const UNDER_WAY: Duration = Duration::from_millis(700);

/// Deletes the Job of a run that has ended; the supervisor is told at once, not when the garbage collector comes to it.
pub(super) async fn stop(connected: &Connected, spec: &Spec, events: &impl SandboxEvents) {
    if !events.has_ended().await {
        tracing::info!(job = spec.job_name, "a tool's Job is left to the next worker");
        return;
    }
    if kill(connected, spec).await {
        return;
    }
    tokio::time::sleep(UNDER_WAY).await;
    kill(connected, spec).await;
}

/// Whether there was a Job, and it is being deleted.
async fn kill(connected: &Connected, spec: &Spec) -> bool {
    let mut known = connected.world.job_named(&spec.job_name);
    if known.is_none() {
        let asked = connected.patiently(|| connected.calls.job(&spec.job_name)).await;
        known = asked.unwrap_or_else(|error| {
            tracing::warn!(job = spec.job_name, %error, "whether a stopped step has a Job is not known");
            None
        });
    }
    // Never one that is not ours.
    let Some(job) = known.filter(|job| job.spec_hash.as_deref() == Some(&spec.hash)) else {
        return false;
    };
    let pod = connected.world.look(&job.uid).pod;
    let delete_job = connected.patiently(|| connected.calls.delete_job(&job.name, &job.uid));
    let delete_pod = async {
        match &pod {
            Some(pod) if pod.ended.is_none() => connected.calls.delete_pod(&pod.name, &pod.uid).await,
            _ => Ok(()),
        }
    };
    let (job_deleted, pod_deleted) = tokio::join!(delete_job, delete_pod);
    if let Err(error) = pod_deleted {
        tracing::debug!(job = job.name, %error, "a stopped tool's pod goes with its Job");
    }
    match job_deleted {
        Ok(()) => {
            connected.world.forget(&job.uid);
            true
        }
        Err(error) => {
            tracing::warn!(job = job.name, %error, "a stopped tool's Job is not deleted yet");
            true
        }
    }
}
