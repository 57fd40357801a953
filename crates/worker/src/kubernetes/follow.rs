//! Following one Job to its end: states from the watches, the record from the store, the log for display.

use super::class::Failure;
use super::classify::{Observed, Phase, Verdict, classify, limit, phase};
use super::logs::{LiveLog, stream};
use super::options::RUN_RESERVE;
use super::seen::PodSeen;
use super::spec::Spec;
use super::world::Look;
use super::{Connected, figures};
use crate::transport::Transport;
use agent::ports::{OutputPiece, SandboxError, SandboxEvents, SandboxRequest, WorkspaceError};
use domain::breakage::{CrashPoint, crash_at};
use std::time::Duration;
use tokio::time::Instant;
use toolbox::live::Channel;
use toolbox::wire::{Ending, Record};

/// The record is looked for this often once the container has ended, and now and then before: the API may be away.
const RECORD_EVERY: Duration = Duration::from_millis(200);
const RECORD_MEANWHILE: Duration = Duration::from_secs(20);
/// How long the store may fail before the call gives up; its Job is there to be adopted.
const STORE_PATIENCE: Duration = Duration::from_mins(1);
/// Between two questions to an API server that does not answer.
const LONG_REST: Duration = Duration::from_secs(1);
/// Longest sleep between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Missing output is read in parts of this size, and of no channel more than that.
const FILL_PART: u64 = 256 * 1024;
const FILL_BYTES: u64 = 64 * 1024 * 1024;

/// How following ended.
#[derive(Debug)]
pub(super) enum End {
    Record(Box<Record>),
    Failed(Failure),
    /// The Job makes no pod.
    Silent,
}

/// One Job being followed.
#[derive(Debug)]
pub(super) struct Follow<'a, E> {
    pub(super) connected: &'a Connected,
    pub(super) transport: &'a Transport,
    pub(super) request: &'a SandboxRequest,
    pub(super) spec: &'a Spec,
    pub(super) job_uid: &'a str,
    pub(super) events: &'a E,
}

/// Where the follower is.
struct Place {
    phase: Option<Phase>,
    /// By the world's clock, and by ours.
    since: Duration,
    since_wall: Instant,
    begun: Instant,
    looked: Instant,
    store_fails_since: Option<Instant>,
    /// The API server itself has said the same, in this phase.
    is_confirmed: bool,
    /// Nothing is asked again so soon after the last look.
    rest: Duration,
}

impl Place {
    /// The record is to be looked for again.
    fn is_due(&self) -> bool {
        let every = match self.phase {
            Some(Phase::Ended) | None => RECORD_EVERY,
            Some(Phase::Running | Phase::Leaving) => RECORD_MEANWHILE,
            Some(_) => return false,
        };
        self.looked.elapsed() >= every
    }
}

impl<E: SandboxEvents> Follow<'_, E> {
    /// Until there is a record or a reason why there will be none.
    ///
    /// # Errors
    /// When the store or the API server is away for too long; the Job goes on.
    pub(super) async fn to_end(&self) -> Result<End, SandboxError> {
        let log = LiveLog::default();
        let logging = async {
            let pod = self.scheduled().await;
            log.follow(&self.connected.calls, &pod.name, self.events).await;
        };
        let end = tokio::select! {
            biased;
            end = self.states(&log) => end?,
            () = logging => return Err(SandboxError::Failed("the log ended before its call".to_owned())),
        };
        if let End::Record(record) = &end {
            crash_at(CrashPoint::AfterRecord);
            self.fill(&log, record).await;
        }
        Ok(end)
    }

    /// Waits for the pod to have a node: from then on its log can be asked for.
    async fn scheduled(&self) -> PodSeen {
        let mut changes = self.connected.world.subscribe();
        loop {
            if let Some(pod) = self.connected.world.look(self.job_uid).pod
                && pod.is_scheduled
            {
                return pod;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn states(&self, log: &LiveLog) -> Result<End, SandboxError> {
        let mut changes = self.connected.world.subscribe();
        let now = Instant::now();
        let mut place = Place {
            phase: None,
            since: self.connected.world.look(self.job_uid).heard,
            since_wall: now,
            begun: now,
            looked: now,
            store_fails_since: None,
            is_confirmed: false,
            rest: Duration::ZERO,
        };
        loop {
            changes.borrow_and_update();
            let look = self.connected.world.look(self.job_uid);
            let may_be_there = self.enter(&mut place, &look) || place.is_due();
            if may_be_there && let Some(end) = self.recorded(&mut place, &look).await? {
                return Ok(end);
            }
            if let Some(end) = self.judge(&mut place, &look).await? {
                return Ok(end);
            }
            let ended = async {
                log.ended.notified().await;
                true
            };
            let log_ended = tokio::select! {
                _ = changes.changed() => false,
                ended = ended => ended,
                () = tokio::time::sleep(self.pause(&place, &look)) => false,
            };
            if log_ended && let Some(end) = self.recorded(&mut place, &look).await? {
                return Ok(end);
            }
        }
    }

    fn observed<'o>(&self, look: &'o Look) -> Observed<'o> {
        Observed {
            job: look.job.as_ref(),
            pod: look.pod.as_ref(),
            pod_is_gone: look.pod_is_gone,
            was_stopped: false,
            timeout: self.request.timeout,
        }
    }

    /// Notes a new phase; whether the record may be there now.
    fn enter(&self, place: &mut Place, look: &Look) -> bool {
        let present = phase(&self.observed(look));
        if present == place.phase {
            return false;
        }
        let lasted = place.since_wall.elapsed();
        match (place.phase, present) {
            (
                Some(Phase::NoPod | Phase::Unscheduled),
                Some(Phase::Preparing | Phase::Running | Phase::Ended),
            ) => {
                figures::phase("schedule", lasted);
            }
            (Some(Phase::Preparing), Some(Phase::Running | Phase::Ended)) => figures::phase("start", lasted),
            _ => {}
        }
        match present {
            Some(Phase::Preparing) => crash_at(CrashPoint::AfterScheduled),
            Some(Phase::Running) => {
                if place.phase != Some(Phase::Preparing) {
                    crash_at(CrashPoint::AfterScheduled);
                }
                crash_at(CrashPoint::WhileRunning);
            }
            _ => {}
        }
        place.phase = present;
        place.is_confirmed = false;
        place.rest = Duration::ZERO;
        place.since = look.heard;
        place.since_wall = Instant::now();
        matches!(present, Some(Phase::Ended | Phase::Leaving) | None)
    }

    /// Looks for the record. One that says cancelled is none: this run was not stopped, its pod was.
    async fn recorded(&self, place: &mut Place, look: &Look) -> Result<Option<End>, SandboxError> {
        place.looked = Instant::now();
        let found = match self.transport.record(self.request, &self.spec.hash).await {
            Ok(found) => found,
            Err(SandboxError::Workspace(WorkspaceError::Storage(why))) => {
                let since = *place.store_fails_since.get_or_insert_with(Instant::now);
                if since.elapsed() < STORE_PATIENCE {
                    return Ok(None);
                }
                return Err(SandboxError::Workspace(WorkspaceError::Storage(why)));
            }
            Err(error) => return Err(error),
        };
        place.store_fails_since = None;
        match found {
            Some(record) if record.ending != Ending::Cancelled => Ok(Some(End::Record(Box::new(record)))),
            Some(record) if record.job_uid == self.job_uid => {
                let gone = Observed {
                    pod_is_gone: true,
                    ..self.observed(look)
                };
                Ok(Some(End::Failed(super::classify::taken_away(&gone))))
            }
            _ => Ok(None),
        }
    }

    /// The verdict on what was seen. Before it counts as an end the API server is asked itself, once: the watch may have
    /// fallen silent without breaking off.
    async fn judge(&self, place: &mut Place, look: &Look) -> Result<Option<End>, SandboxError> {
        let seen = self.observed(look);
        let limits = &self.connected.limits;
        let elapsed = match place.phase {
            // This is the store's time, whatever the API server does.
            Some(Phase::Ended) => place.since_wall.elapsed(),
            _ => look.heard.saturating_sub(place.since),
        };
        let verdict = classify(&seen, elapsed, limits);
        if matches!(verdict, Verdict::Goes(_)) || place.looked.elapsed() < place.rest {
            return self.patience(place).map(|()| None);
        }
        if !place.is_confirmed && place.phase != Some(Phase::Ended) {
            place.is_confirmed = match self.connected.read_again(&self.spec.job_name, self.job_uid).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(job = self.spec.job_name, %error, "a call cannot be asked for");
                    place.rest = LONG_REST;
                    place.looked = Instant::now();
                    return self.patience(place).map(|()| None);
                }
            };
            let now = self.connected.world.look(self.job_uid);
            if (&now.job, &now.pod, now.pod_is_gone) != (&look.job, &look.pod, look.pod_is_gone) {
                return Ok(None);
            }
        }
        if let Some(end) = self.recorded(place, look).await? {
            return Ok(Some(end));
        }
        if place.store_fails_since.is_some() {
            // Whether there is a record is not known.
            place.rest = RECORD_EVERY;
            return Ok(None);
        }
        Ok(match verdict {
            Verdict::Goes(_) => None,
            Verdict::Silent => Some(End::Silent),
            Verdict::Failed(failure) => Some(End::Failed(failure)),
        })
    }

    /// Nothing is waited for without an end, not even an API server that is away.
    fn patience(&self, place: &Place) -> Result<(), SandboxError> {
        let limits = &self.connected.limits;
        let longest = limits.start() + self.request.timeout + RUN_RESERVE + limits.api;
        if place.begun.elapsed() < longest || self.connected.world.is_heard() {
            return Ok(());
        }
        Err(SandboxError::Failed(
            "the API server of the cluster is away".to_owned(),
        ))
    }

    fn pause(&self, place: &Place, look: &Look) -> Duration {
        if place.phase == Some(Phase::Ended) || place.phase.is_none() {
            return RECORD_EVERY;
        }
        let seen = self.observed(look);
        let limit = place
            .phase
            .map(|phase| limit(phase, &seen, &self.connected.limits));
        let elapsed = look.heard.saturating_sub(place.since);
        let left = limit.unwrap_or(LOOK_EVERY).saturating_sub(elapsed);
        left.max(place.rest).clamp(Duration::from_millis(20), LOOK_EVERY)
    }

    /// Shows what the log lost.
    async fn fill(&self, log: &LiveLog, record: &Record) {
        if record.job_uid != self.job_uid {
            return;
        }
        for (channel, stored) in [
            (Channel::Stdout, &record.stdout),
            (Channel::Stderr, &record.stderr),
        ] {
            let mut left = FILL_BYTES;
            for missing in log.missing(channel, stored.bytes) {
                let mut from = missing.start;
                while from < missing.end && left > 0 {
                    let until = missing.end.min(from + FILL_PART.min(left));
                    let part = self
                        .transport
                        .output(self.request, self.job_uid, channel, from..until)
                        .await;
                    let part = match part {
                        Ok(part) if !part.is_empty() => part,
                        Ok(_) => return,
                        Err(error) => {
                            tracing::debug!(%error, "missing output cannot be read");
                            return;
                        }
                    };
                    self.events.output(OutputPiece {
                        stream: stream(channel),
                        offset: from,
                        text: String::from_utf8_lossy(&part).into_owned(),
                        gap: false,
                    });
                    from += part.len() as u64;
                    left = left.saturating_sub(part.len() as u64);
                }
            }
        }
    }
}
