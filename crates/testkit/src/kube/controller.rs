//! The Job controller: makes the pod, counts its end, tells Complete or Failed, and deletes after the time to live.

use super::kind::Kind;
use super::store::State;
use super::{Cluster, admission, clock, object, verbs};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Waits of a pod that cannot be made, in seconds; then 60 each.
const BACKOFF: [u64; 6] = [1, 3, 7, 15, 30, 60];

/// What comes within this time is looked at together.
const COALESCE: Duration = Duration::from_millis(4);

/// What the controller remembers of a Job.
#[derive(Debug, Default)]
struct Known {
    pod_at: Option<Instant>,
    tries: usize,
    /// Uid of the pod that was made.
    made: Option<String>,
    end_at: Option<Instant>,
    delete_at: Option<Instant>,
}

pub(super) async fn run(cluster: Arc<Cluster>) {
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut changed = cluster.changes();
    loop {
        changed.mark_unchanged();
        let jobs: Vec<Value> = cluster.read(|state| state.list(Kind::Job, "").cloned().collect());
        known.retain(|uid, _| jobs.iter().any(|job| object::uid(job) == uid));
        let mut next = Instant::now() + Duration::from_hours(1);
        for job in jobs.iter().filter(|job| !object::is_terminating(job)) {
            let memory = known.entry(object::uid(job).to_owned()).or_default();
            let mut turn = Turn {
                cluster: &cluster,
                job,
                memory,
            };
            if let Some(at) = turn.take() {
                next = next.min(at);
            }
        }
        tokio::select! {
            moved = changed.changed() => if moved.is_err() { return },
            () = sleep_until(next) => {}
        }
        // Many changes, one look.
        sleep(COALESCE).await;
    }
}

/// One look at one Job.
struct Turn<'a> {
    cluster: &'a Cluster,
    job: &'a Value,
    memory: &'a mut Known,
}

impl Turn<'_> {
    /// Does what is due; says when to look again.
    fn take(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.is_finished() {
            let ttl = self.job["spec"]["ttlSecondsAfterFinished"].as_u64();
            let ttl = Duration::from_secs(ttl?);
            let at = *self.memory.delete_at.get_or_insert(now + ttl);
            if at <= now {
                self.cluster
                    .write(|state| state.remove(Kind::Job, object::uid(self.job)));
            }
            return Some(at);
        }
        let Some(made) = self.memory.made.clone() else {
            return self.make_pod(now);
        };
        let pod = self.cluster.read(|state| state.by_uid(Kind::Pod, &made).cloned());
        let ended = pod
            .as_ref()
            .is_none_or(|pod| object::has_ended(pod) || object::is_terminating(pod));
        if !ended {
            let ready = object::condition(&pod?, "Ready") == "True";
            self.status(|status| status["ready"] = i32::from(ready).into());
            return None;
        }
        let at = *self
            .memory
            .end_at
            .get_or_insert(now + self.cluster.options.delays.finish);
        if at <= now {
            let good = pod.is_some_and(|pod| object::phase(&pod) == "Succeeded");
            self.finish(good);
        }
        Some(at)
    }

    fn is_finished(&self) -> bool {
        let over = ["Complete", "Failed"];
        over.iter()
            .any(|kind| object::condition(self.job, kind) == "True")
    }

    fn status(&self, change: impl FnOnce(&mut Value)) {
        self.cluster
            .write(|state| state.update(Kind::Job, object::uid(self.job), |job| change(&mut job["status"])));
    }

    fn make_pod(&mut self, now: Instant) -> Option<Instant> {
        let delays = &self.cluster.options.delays;
        let at = *self.memory.pod_at.get_or_insert(now + delays.pod);
        if at > now {
            return Some(at);
        }
        let mut pod = new_pod(self.job);
        let tried = admission::complete(Kind::Pod, &mut pod)
            .and_then(|()| admission::admit(Kind::Pod, &pod, false, false, &self.cluster.policy()))
            .and_then(|_| {
                self.cluster.write(|state| {
                    // The Job may have gone since we looked.
                    match state.by_uid(Kind::Job, object::uid(self.job)) {
                        Some(job) if !object::is_terminating(job) => {
                            verbs::insert(state, Kind::Pod, pod, false).map(Some)
                        }
                        _ => Ok(None),
                    }
                })
            });
        match tried {
            Ok(pod) => {
                let pod = pod?;
                self.memory.made = Some(object::uid(&pod).to_owned());
                self.note(
                    false,
                    "SuccessfulCreate",
                    &format!("Created pod: {}", object::name(&pod)),
                );
                let time = clock::stamp();
                self.status(|status| {
                    *status = json!({"active": 1, "ready": 0, "startTime": time, "terminating": 0, "uncountedTerminatedPods": {}});
                });
                None
            }
            Err(refusal) => {
                self.note(
                    true,
                    "FailedCreate",
                    &format!("Error creating: {}", refusal.message),
                );
                let seconds = BACKOFF.get(self.memory.tries).copied().unwrap_or(60);
                self.memory.tries += 1;
                let at = now + delays.second * u32::try_from(seconds).unwrap_or(60);
                self.memory.pod_at = Some(at);
                Some(at)
            }
        }
    }

    fn note(&self, warning: bool, reason: &str, message: &str) {
        let source = ("job-controller", warning, reason);
        self.cluster
            .write(|state| state.event(Kind::Job, self.job, source, message));
    }

    fn finish(&self, good: bool) {
        let time = clock::stamp();
        let condition = |kind: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": message,
                   "lastProbeTime": time, "lastTransitionTime": time})
        };
        let conditions = if good {
            let text = ("CompletionsReached", "Reached expected number of succeeded pods");
            [
                condition("SuccessCriteriaMet", text.0, text.1),
                condition("Complete", text.0, text.1),
            ]
        } else {
            let text = (
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            );
            [
                condition("FailureTarget", text.0, text.1),
                condition("Failed", text.0, text.1),
            ]
        };
        self.status(|status| {
            *status = json!({
                "startTime": status["startTime"], "ready": 0, "terminating": 0, "uncountedTerminatedPods": {},
                "conditions": conditions,
            });
            status[if good { "succeeded" } else { "failed" }] = 1.into();
            if good {
                status["completionTime"] = time.clone().into();
            }
        });
        let reason = if good { "Completed" } else { "BackoffLimitExceeded" };
        let message = if good {
            "Job completed"
        } else {
            "Job has reached the specified backoff limit"
        };
        self.note(!good, reason, message);
    }
}

fn new_pod(job: &Value) -> Value {
    let template = &job["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    let meta = &mut pod["metadata"];
    meta["namespace"] = job["metadata"]["namespace"].clone();
    meta["generateName"] = format!("{}-", object::name(job)).into();
    meta["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": object::name(job), "uid": object::uid(job),
        "controller": true, "blockOwnerDeletion": true,
    }]);
    pod
}

/// Name of the Job a pod belongs to, or its own.
pub(super) fn job_of(pod: &Value) -> &str {
    match object::text(pod, "/metadata/labels/batch.kubernetes.io~1job-name") {
        "" => object::name(pod),
        name => name,
    }
}

/// Refuses nothing and keeps nothing: lets tests see a Job's pods.
pub(super) fn pods_of<'a>(state: &'a State, job: &'a str) -> impl Iterator<Item = &'a Value> {
    state.list(Kind::Pod, "").filter(move |pod| job_of(pod) == job)
}
