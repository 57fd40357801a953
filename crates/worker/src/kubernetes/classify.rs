//! Where a call stands, and why it failed: one ordered list of causes over what was last seen of its Job and its pod.
//!
//! The record in the store is believed first; this table is asked only where it is missing. No state lasts longer than its
//! limit: the follower gives the time spent in the present [`Phase`], measured only while the API server can be heard.

use super::class::{Class, Failure};
use super::options::{Limits, RUN_RESERVE};
use super::seen::{Ended, JobSeen, PodSeen};
use std::time::Duration;
use toolbox::wire::{GRACE_SECONDS, exit};

/// Where a call stands that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The Job has no pod.
    NoPod,
    Unscheduled,
    /// On a node, not started.
    Preparing,
    /// An image that does not come, or something of the pod that is missing.
    Stuck,
    Running,
    /// Told to end, and its end is not seen: its node may be lost.
    Leaving,
    /// The container has ended; its record is looked for.
    Ended,
}

/// What is known of a call.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Nothing: it is gone, and that is certain.
    pub job: Option<&'a JobSeen>,
    /// The last that was seen of its pod.
    pub pod: Option<&'a PodSeen>,
    /// The pod's object is gone.
    pub pod_is_gone: bool,
    /// A stop of the run deleted it.
    pub was_stopped: bool,
    /// The tool's own time limit.
    pub timeout: Duration,
}

/// Where it stands or why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Goes(Phase),
    /// Without pod for too long: the reason is to be asked for.
    Silent,
    Failed(Failure),
}

const PULL: [&str; 5] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
];
const BROKEN: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
    "InvalidConfiguration",
    "PreCreateHookError",
];
/// `exit` of a shell and of the runtime: 128 + the signal's number.
const SIGNALLED: i32 = 128;
const LAST_SIGNAL: i32 = 64;

/// A pod that was deleted has this long to be seen ending: its own grace, and the kubelet's reports.
const LEAVING: Duration = Duration::from_secs(GRACE_SECONDS + 20);

/// The phase, whatever its limit. `None` when the end is certain.
pub fn phase(seen: &Observed<'_>) -> Option<Phase> {
    let pod = match (seen.job, seen.pod) {
        (_, Some(pod)) => pod,
        (Some(job), None) if !job.has_finished => return Some(Phase::NoPod),
        (_, None) => return None,
    };
    if pod.ended.is_some() || pod.has_failed {
        return Some(Phase::Ended);
    }
    if seen.job.is_none() || seen.pod_is_gone {
        return None;
    }
    if pod.is_deleted {
        return Some(Phase::Leaving);
    }
    if pod.is_running {
        return Some(Phase::Running);
    }
    let reason = pod.waiting.as_ref().map_or("", |(reason, _)| reason.as_str());
    if PULL.contains(&reason) || BROKEN.contains(&reason) || reason == "InvalidImageName" {
        return Some(Phase::Stuck);
    }
    Some(if pod.is_scheduled {
        Phase::Preparing
    } else {
        Phase::Unscheduled
    })
}

/// The verdict after `elapsed` in the present phase.
pub fn classify(seen: &Observed<'_>, elapsed: Duration, limits: &Limits) -> Verdict {
    let Some(phase) = phase(seen) else {
        return Verdict::Failed(vanished(seen));
    };
    let limit = limit(phase, seen, limits);
    if elapsed < limit {
        return Verdict::Goes(phase);
    }
    let failed = |class, detail: String| Verdict::Failed(Failure::new(class, detail));
    let waiting = || {
        let waiting = seen.pod.and_then(|pod| pod.waiting.clone());
        waiting.unwrap_or_default()
    };
    match phase {
        Phase::NoPod => Verdict::Silent,
        Phase::Unscheduled => {
            let why = seen.pod.and_then(|pod| pod.unschedulable.clone());
            failed(Class::Unschedulable, why.unwrap_or_default())
        }
        Phase::Preparing => failed(Class::BadConfiguration, joined(&waiting())),
        Phase::Stuck => {
            let (reason, message) = waiting();
            let class = match reason.as_str() {
                "InvalidImageName" => Class::BadImageName,
                reason if PULL.contains(&reason) => Class::ImageNotPulled,
                _ => Class::BadConfiguration,
            };
            failed(class, joined(&(reason, message)))
        }
        Phase::Running => failed(Class::Timeout, "its supervisor did not end it".to_owned()),
        Phase::Leaving => Verdict::Failed(vanished(seen)),
        Phase::Ended => Verdict::Failed(ended(seen)),
    }
}

/// How long the phase may last.
pub fn limit(phase: Phase, seen: &Observed<'_>, limits: &Limits) -> Duration {
    match phase {
        Phase::NoPod => limits.no_pod,
        Phase::Unscheduled => limits.unscheduled,
        Phase::Preparing => limits.prepare,
        Phase::Stuck => {
            let reason = seen.pod.and_then(|pod| pod.waiting.as_ref());
            match reason.map(|(reason, _)| reason.as_str()) {
                Some("InvalidImageName") => Duration::ZERO,
                _ => limits.pull,
            }
        }
        Phase::Running => seen.timeout + RUN_RESERVE,
        Phase::Leaving => LEAVING,
        Phase::Ended => limits.result,
    }
}

fn joined((reason, message): &(String, String)) -> String {
    match (reason.is_empty(), message.is_empty()) {
        (true, _) => message.clone(),
        (_, true) => reason.clone(),
        _ => format!("{reason}: {message}"),
    }
}

/// Without record: evicted before out of memory before exit code.
fn ended(seen: &Observed<'_>) -> Failure {
    if seen.was_stopped {
        return Failure::new(Class::Cancelled, "");
    }
    let Some(pod) = seen.pod else {
        return Failure::new(Class::Internal, "");
    };
    if let Some(failure) = disrupted(pod) {
        return failure;
    }
    if pod.is_deleted {
        // Told to end from outside: what its supervisor's exit code says follows from that.
        return vanished(seen);
    }
    let of_pod = joined(&(pod.reason.clone(), pod.message.clone()));
    let of_container = pod.ended.as_ref();
    if of_container.is_some_and(|ended| ended.reason == "OOMKilled") {
        return Failure::new(Class::OutOfMemory, "");
    }
    if pod.reason == "DeadlineExceeded" {
        return Failure::new(Class::Timeout, "");
    }
    match of_container {
        None => Failure::new(Class::Internal, of_pod),
        Some(ended) if ended.is_installer => {
            let detail = format!(
                "the supervisor was not copied into its image (code {})",
                ended.exit_code
            );
            Failure::new(Class::BadConfiguration, detail)
        }
        Some(ended) => by_exit(ended),
    }
}

fn by_exit(ended: &Ended) -> Failure {
    let said = joined(&(ended.reason.clone(), ended.message.clone()));
    if BROKEN.contains(&ended.reason.as_str()) || ended.reason == "ContainerCannotRun" {
        return Failure::new(Class::BadConfiguration, said);
    }
    let words = match u8::try_from(ended.exit_code).unwrap_or_default() {
        exit::USAGE => Some((
            Class::BadConfiguration,
            "the supervisor has no order that it can read",
        )),
        exit::INTERNAL => Some((Class::Internal, "its own machinery failed")),
        exit::STARTED_BEFORE => Some((Class::Internal, "the cluster started it a second time")),
        exit::NOT_STORED => Some((Class::Workspace, "the result could not be stored")),
        exit::NOT_BEGUN => Some((Class::Workspace, "the tool was not begun: the store is away")),
        _ => None,
    };
    match (words, ended.exit_code) {
        (Some((class, words)), _) => Failure::new(class, words),
        (None, 0) => Failure::new(Class::Internal, "exit code 0"),
        (None, code) if (SIGNALLED + 1..=SIGNALLED + LAST_SIGNAL).contains(&code) => {
            Failure::new(Class::Signal(code - SIGNALLED), "")
        }
        (None, code) => Failure::new(Class::ExitCode(code), ""),
    }
}

/// Reasons of DisruptionTarget, and of pods that went with their node.
fn disrupted(pod: &PodSeen) -> Option<Failure> {
    let because = pod.disruption.as_deref();
    if matches!(because, Some("DeletionByTaintManager" | "DeletionByPodGC")) || pod.reason == "NodeLost" {
        return Some(Failure::new(Class::NodeLost, pod.message.clone()));
    }
    if because.is_some()
        || matches!(
            pod.reason.as_str(),
            "Evicted" | "Preempting" | "Shutdown" | "Terminated"
        )
    {
        let said = (because.unwrap_or(&pod.reason).to_owned(), pod.message.clone());
        return Some(Failure::new(Class::Evicted, joined(&said)));
    }
    None
}

/// The supervisor was told to end, and not by us.
pub fn taken_away(seen: &Observed<'_>) -> Failure {
    vanished(seen)
}

/// The Job or its pod is gone, or the Job has finished and its pod was never seen.
fn vanished(seen: &Observed<'_>) -> Failure {
    if seen.was_stopped {
        return Failure::new(Class::Cancelled, "");
    }
    let Some(pod) = seen.pod else {
        let what = if seen.job.is_some() {
            "its pod is gone"
        } else {
            "its Job was deleted"
        };
        return Failure::new(Class::Evicted, what);
    };
    disrupted(pod).unwrap_or_else(|| Failure::new(Class::Evicted, "its pod was deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::samples::options;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_hours(2);

    fn job() -> JobSeen {
        JobSeen::default()
    }

    fn pod() -> PodSeen {
        PodSeen {
            is_scheduled: true,
            ..PodSeen::default()
        }
    }

    fn ended(exit_code: i32, reason: &str) -> PodSeen {
        PodSeen {
            ended: Some(Ended {
                exit_code,
                reason: reason.to_owned(),
                ..Ended::default()
            }),
            ..pod()
        }
    }

    fn waits(reason: &str) -> PodSeen {
        PodSeen {
            waiting: Some((reason.to_owned(), "said".to_owned())),
            ..pod()
        }
    }

    fn verdict(job: Option<&JobSeen>, pod: Option<&PodSeen>, elapsed: Duration) -> Verdict {
        let seen = Observed {
            job,
            pod,
            pod_is_gone: false,
            was_stopped: false,
            timeout: Duration::from_secs(10),
        };
        classify(&seen, elapsed, &options().waits.limits())
    }

    /// The class after a long time, of a Job that is there.
    fn class(pod: &PodSeen) -> Class {
        match verdict(Some(&job()), Some(pod), LONG) {
            Verdict::Failed(failure) => failure.class,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exit_7_without_record() {
        assert_eq!(class(&ended(7, "Error")), Class::ExitCode(7));
    }

    #[test]
    fn a_signal_without_record() {
        assert_eq!(class(&ended(139, "Error")), Class::Signal(11));
    }

    #[test]
    fn main_process_killed_for_want_of_memory() {
        assert_eq!(class(&ended(137, "OOMKilled")), Class::OutOfMemory);
    }

    #[test]
    fn binary_missing() {
        assert_eq!(class(&ended(128, "StartError")), Class::BadConfiguration);
        assert_eq!(class(&ended(127, "ContainerCannotRun")), Class::BadConfiguration);
    }

    #[test]
    fn deadline_of_the_pod() {
        let pod = PodSeen {
            reason: "DeadlineExceeded".to_owned(),
            ..ended(143, "Error")
        };
        assert_eq!(class(&pod), Class::Timeout);
    }

    #[test]
    fn image_that_cannot_be_pulled_after_its_limit_and_not_before() {
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            let pod = waits(reason);
            let early = verdict(Some(&job()), Some(&pod), Duration::from_secs(29));
            assert_eq!(early, Verdict::Goes(Phase::Stuck));
            assert_eq!(class(&pod), Class::ImageNotPulled);
        }
    }

    #[test]
    fn bad_image_name_at_once() {
        let pod = waits("InvalidImageName");
        let now = verdict(Some(&job()), Some(&pod), NOW);
        assert_eq!(
            now,
            Verdict::Failed(Failure::new(Class::BadImageName, "InvalidImageName: said"))
        );
    }

    #[test]
    fn something_of_the_pod_is_missing() {
        assert_eq!(
            class(&waits("CreateContainerConfigError")),
            Class::BadConfiguration
        );
        assert_eq!(class(&waits("ContainerCreating")), Class::BadConfiguration);
        let early = verdict(
            Some(&job()),
            Some(&waits("ContainerCreating")),
            Duration::from_secs(59),
        );
        assert_eq!(early, Verdict::Goes(Phase::Preparing));
    }

    #[test]
    fn unschedulable() {
        let pod = PodSeen {
            unschedulable: Some("0/1 nodes are available".to_owned()),
            ..PodSeen::default()
        };
        let early = verdict(Some(&job()), Some(&pod), Duration::from_secs(119));
        assert_eq!(early, Verdict::Goes(Phase::Unscheduled));
        assert_eq!(class(&pod), Class::Unschedulable);
    }

    #[test]
    fn a_job_without_pod_is_silent_after_its_limit() {
        let early = verdict(Some(&job()), None, Duration::from_millis(1900));
        assert_eq!(early, Verdict::Goes(Phase::NoPod));
        assert_eq!(
            verdict(Some(&job()), None, Duration::from_secs(2)),
            Verdict::Silent
        );
    }

    #[test]
    fn a_running_tool_has_its_own_limit_and_the_reserve() {
        let pod = PodSeen {
            is_running: true,
            ..pod()
        };
        let early = verdict(Some(&job()), Some(&pod), Duration::from_secs(129));
        assert_eq!(early, Verdict::Goes(Phase::Running));
        assert_eq!(class(&pod), Class::Timeout);
    }

    #[test]
    fn an_ended_container_waits_for_its_record_first() {
        let early = verdict(Some(&job()), Some(&ended(0, "Completed")), Duration::from_secs(4));
        assert_eq!(early, Verdict::Goes(Phase::Ended));
        assert_eq!(class(&ended(0, "Completed")), Class::Internal);
        // Also when its Job is gone already.
        let gone = verdict(None, Some(&ended(0, "Completed")), NOW);
        assert_eq!(gone, Verdict::Goes(Phase::Ended));
    }

    #[test]
    fn evicted_comes_before_out_of_memory_and_exit_code() {
        let pod = PodSeen {
            has_failed: true,
            reason: "Evicted".to_owned(),
            message: "emptyDir over its limit".to_owned(),
            ..ended(137, "OOMKilled")
        };
        assert_eq!(class(&pod), Class::Evicted);
        let pod = PodSeen {
            disruption: Some("EvictionByEvictionAPI".to_owned()),
            ..ended(143, "Error")
        };
        assert_eq!(class(&pod), Class::Evicted);
    }

    #[test]
    fn a_pod_that_leaves_without_end_went_with_its_node() {
        let pod = PodSeen {
            is_deleted: true,
            is_running: true,
            disruption: Some("DeletionByTaintManager".to_owned()),
            ..pod()
        };
        let early = verdict(Some(&job()), Some(&pod), Duration::from_secs(29));
        assert_eq!(early, Verdict::Goes(Phase::Leaving));
        assert_eq!(class(&pod), Class::NodeLost);
    }

    #[test]
    fn job_or_pod_gone_is_told_at_once_by_what_was_last_seen() {
        let running = PodSeen {
            is_running: true,
            ..pod()
        };
        let gone = |job: Option<&JobSeen>, pod, was_stopped| {
            let seen = Observed {
                job,
                pod,
                pod_is_gone: true,
                was_stopped,
                timeout: Duration::from_secs(10),
            };
            match classify(&seen, NOW, &options().waits.limits()) {
                Verdict::Failed(failure) => failure.class,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(gone(Some(&job()), Some(&running), false), Class::Evicted);
        assert_eq!(gone(None, None, false), Class::Evicted);
        assert_eq!(gone(None, Some(&running), true), Class::Cancelled);
        let lost = PodSeen {
            disruption: Some("DeletionByPodGC".to_owned()),
            ..running.clone()
        };
        assert_eq!(gone(Some(&job()), Some(&lost), false), Class::NodeLost);
        let finished = JobSeen {
            has_finished: true,
            ..job()
        };
        assert_eq!(gone(Some(&finished), None, false), Class::Evicted);
    }

    #[test]
    fn the_supervisors_own_codes_have_their_words() {
        let code = |code: u8| class(&ended(i32::from(code), "Error"));
        assert_eq!(code(exit::USAGE), Class::BadConfiguration);
        assert_eq!(code(exit::INTERNAL), Class::Internal);
        assert_eq!(code(exit::STARTED_BEFORE), Class::Internal);
        assert_eq!(code(exit::NOT_STORED), Class::Workspace);
        assert_eq!(code(exit::NOT_BEGUN), Class::Workspace);
        let mut installer = ended(1, "Error");
        if let Some(ended) = &mut installer.ended {
            ended.is_installer = true;
        }
        assert_eq!(class(&installer), Class::BadConfiguration);
    }
}
