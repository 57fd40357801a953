//! Who may make a Job now: a fair queue in front of the quota.
//!
//! Kubernetes never oversteps its quota and never queues; so a call asks here first. The next place goes to the user with the
//! fewest calls under way, then to the one who was served longest ago, and to a user's calls in their order. Places are
//! counted over all workers, from the watch; where several workers meet at the quota all the same, it refuses all but those
//! it has room for, and they come back here.

use super::calls::{CallError, Calls};
use super::figures;
use super::world::World;
use domain::ids::UserId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where no quota is to be seen.
const DEFAULT_JOBS: usize = 50;
/// The quota's status is read at most this often.
const QUOTA_AGE: Duration = Duration::from_secs(30);
/// After a refusal of the quota nothing is tried for a while, unless a Job goes.
const REFUSED_PAUSE: Duration = Duration::from_millis(1500);
/// Places are counted again this often in any case.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const COUNT_JOBS: &str = "count/jobs.batch";

/// A waiting call.
#[derive(Debug)]
struct Ticket {
    user: UserId,
    granted: oneshot::Sender<Permit>,
}

/// The order of the waiting ones; pure but for the senders.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Ticket>,
    /// Calls under way by user.
    active: HashMap<UserId, usize>,
    /// When a user was served last, in places given.
    served: HashMap<UserId, u64>,
    given: u64,
}

impl Line {
    /// Takes out who comes next.
    fn next(&mut self) -> Option<Ticket> {
        let rank = |ticket: &Ticket| {
            let active = self.active.get(&ticket.user).copied().unwrap_or_default();
            (active, self.served.get(&ticket.user).copied().unwrap_or_default())
        };
        let best = self
            .waiting
            .iter()
            .enumerate()
            .min_by_key(|(place, ticket)| (rank(ticket), *place));
        let place = best?.0;
        self.waiting.remove(place)
    }

    fn begin(&mut self, user: &UserId) {
        self.given += 1;
        *self.active.entry(user.clone()).or_default() += 1;
        self.served.insert(user.clone(), self.given);
    }

    fn end(&mut self, user: &UserId) {
        if let Some(active) = self.active.get_mut(user) {
            *active = active.saturating_sub(1);
            if *active == 0 {
                self.active.remove(user);
            }
        }
        if self.waiting.is_empty() && self.active.is_empty() {
            self.served.clear();
        }
    }

    fn under_way(&self) -> usize {
        self.active.values().sum()
    }
}

#[derive(Debug, Default)]
struct State {
    line: Line,
    /// Places that have a Job of ours in the watch or soon will; by their permits.
    with_job: usize,
    refused_until: Option<Instant>,
    /// Jobs there were when the quota refused; with fewer it is worth a try.
    refused_at: usize,
    quota: Option<(Instant, Quota)>,
}

/// What the namespace's quotas say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota {
    jobs: usize,
    /// Used by Jobs that are none of ours.
    others: usize,
}

/// The queue of this worker. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
    world: World,
    calls: Calls,
    /// `K8S_MAX_JOBS`.
    cap: Option<usize>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Admission,
    user: UserId,
    has_job: bool,
}

impl Permit {
    /// A Job was made with it: from now on the watch counts it.
    pub(super) fn has_job(&mut self) {
        if !std::mem::replace(&mut self.has_job, true) {
            self.admission.state().with_job += 1;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.line.end(&self.user);
        if self.has_job {
            state.with_job = state.with_job.saturating_sub(1);
        }
        drop(state);
        self.admission.wake.notify_one();
    }
}

impl Admission {
    pub(super) fn new(calls: Calls, world: World, cap: Option<u32>) -> Self {
        Self {
            state: Arc::default(),
            wake: Arc::default(),
            world,
            calls,
            cap: cap.map(|cap| cap as usize),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place at once, when nobody waits and there is one.
    pub(super) fn try_enter(&self, user: &UserId) -> Option<Permit> {
        let mut state = self.state();
        if !state.line.waiting.is_empty() || self.places(&state) == 0 {
            return None;
        }
        state.line.begin(user);
        drop(state);
        Some(self.permit(user))
    }

    /// Waits for a place. Dropped, the call has left the line.
    pub(super) async fn enter(&self, user: &UserId) -> Permit {
        loop {
            let (granted, place) = oneshot::channel();
            self.state().line.waiting.push_back(Ticket {
                user: user.clone(),
                granted,
            });
            self.wake.notify_one();
            // The line lives as long as we do; should it drop a ticket, the call stands in line again.
            if let Ok(permit) = place.await {
                return permit;
            }
        }
    }

    fn permit(&self, user: &UserId) -> Permit {
        Permit {
            admission: self.clone(),
            user: user.clone(),
            has_job: false,
        }
    }

    /// The quota refused a creation that we thought there was room for.
    pub(super) fn refused(&self) {
        let jitter = 0.5 + rand::random::<f64>();
        let jobs = self.world.job_count();
        let mut state = self.state();
        state.refused_until = Some(Instant::now() + REFUSED_PAUSE.mul_f64(jitter));
        state.refused_at = jobs;
        if let Some((read, _)) = &mut state.quota {
            *read = Instant::now().checked_sub(QUOTA_AGE).unwrap_or(*read);
        }
    }

    fn waiting(&self) -> usize {
        self.state().line.waiting.len()
    }

    /// Free places as far as we know.
    fn places(&self, state: &State) -> usize {
        let jobs = self.world.job_count();
        if state.refused_until.is_some_and(|until| Instant::now() < until) && jobs >= state.refused_at {
            return 0;
        }
        let quota = state.quota.map(|(_, quota)| quota);
        let cap = match (self.cap, quota) {
            (Some(cap), Some(quota)) => cap.min(quota.jobs.saturating_sub(quota.others)),
            (Some(cap), None) => cap,
            (None, Some(quota)) => quota.jobs.saturating_sub(quota.others),
            (None, None) => DEFAULT_JOBS,
        };
        // Permits without a Job yet come on top of what the watch shows.
        let coming = state.line.under_way().saturating_sub(state.with_job);
        cap.saturating_sub(jobs + coming)
    }

    /// Gives places away until there is none or nobody waits. One for a call that has left the line comes back by itself.
    fn grant(&self) {
        while let Some(ticket) = self.next() {
            let permit = self.permit(&ticket.user);
            drop(ticket.granted.send(permit));
        }
    }

    fn next(&self) -> Option<Ticket> {
        let mut state = self.state();
        if self.places(&state) == 0 {
            return None;
        }
        let ticket = state.line.next()?;
        state.line.begin(&ticket.user);
        Some(ticket)
    }

    /// Gives places away as they become free, until `stop` fires.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut changes = self.world.subscribe();
        loop {
            self.read_quota().await;
            self.grant();
            figures::waiting(self.waiting());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Reads the quota when somebody wants a place and what we know of it is old.
    async fn read_quota(&self) {
        let is_fresh = {
            let state = self.state();
            let known = state.quota.as_ref();
            let is_wanted = known.is_none() || !state.line.waiting.is_empty();
            !is_wanted || known.is_some_and(|(read, _)| read.elapsed() < QUOTA_AGE)
        };
        if is_fresh || !self.world.is_heard() {
            return;
        }
        let quota = match self.calls.quotas().await {
            Ok(quotas) => tightest(&quotas, self.world.job_count()),
            Err(CallError::Forbidden(message)) => {
                tracing::warn!(message, "the tools' quota may not be read");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the tools' quota cannot be read");
                return;
            }
        };
        let quota = quota.unwrap_or(Quota {
            jobs: DEFAULT_JOBS,
            others: 0,
        });
        self.state().quota = Some((Instant::now(), quota));
    }
}

/// The quota that leaves the fewest Jobs.
fn tightest(quotas: &[k8s_openapi::api::core::v1::ResourceQuota], ours: usize) -> Option<Quota> {
    let of = |quota: &k8s_openapi::api::core::v1::ResourceQuota| {
        let status = quota.status.as_ref()?;
        let count = |of: &Option<std::collections::BTreeMap<String, _>>| {
            let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                of.as_ref()?.get(COUNT_JOBS)?;
            quantity.0.parse::<usize>().ok()
        };
        Some(Quota {
            jobs: count(&status.hard)?,
            others: count(&status.used).unwrap_or_default().saturating_sub(ours),
        })
    };
    quotas
        .iter()
        .filter_map(of)
        .min_by_key(|quota| quota.jobs.saturating_sub(quota.others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stand(line: &mut Line, user: u8) -> oneshot::Receiver<Permit> {
        let (granted, place) = oneshot::channel();
        line.waiting.push_back(Ticket {
            user: UserId(user.to_string()),
            granted,
        });
        place
    }

    fn serve(line: &mut Line) -> Option<String> {
        let ticket = line.next()?;
        line.begin(&ticket.user);
        Some(ticket.user.0)
    }

    proptest! {
        /// Whatever comes and goes: the served one has no more calls under way than any other who waits, and nobody who has
        /// none under way is passed over twice by the same other user.
        #[test]
        fn no_user_is_served_before_one_with_fewer_calls(
            steps in proptest::collection::vec((0_u8..4, any::<bool>()), 1..80),
        ) {
            let (mut line, mut places) = (Line::default(), vec![]);
            let mut running: Vec<String> = vec![];
            for (user, ends) in steps {
                if ends && !running.is_empty() {
                    let ended = running.remove(usize::from(user) % running.len());
                    line.end(&UserId(ended));
                    let active = line.active.clone();
                    let waiting: Vec<UserId> = line.waiting.iter().map(|ticket| ticket.user.clone()).collect();
                    if let Some(served) = serve(&mut line) {
                        let of = |user: &UserId| active.get(user).copied().unwrap_or_default();
                        let least = waiting.iter().map(of).min().unwrap_or_default();
                        prop_assert_eq!(of(&UserId(served.clone())), least);
                        running.push(served);
                    }
                } else if running.len() < 3 && line.waiting.is_empty() {
                    line.begin(&UserId(user.to_string()));
                    running.push(user.to_string());
                } else {
                    places.push(stand(&mut line, user));
                }
            }
            prop_assert_eq!(line.under_way(), running.len());
        }
    }

    #[test]
    fn a_user_with_many_calls_does_not_keep_another_waiting() {
        let mut line = Line::default();
        let mut places = vec![];
        for _ in 0..10 {
            places.push(stand(&mut line, 1));
        }
        places.push(stand(&mut line, 2));
        let served: Vec<String> = (0..3).filter_map(|_| serve(&mut line)).collect();
        assert_eq!(served, ["1", "2", "1"]);
    }

    #[test]
    fn the_tightest_quota_counts_and_foreign_jobs_take_places() {
        let quota = |hard: &str, used: &str| {
            let json = serde_json::json!({"status": {"hard": {"count/jobs.batch": hard}, "used": {"count/jobs.batch": used}}});
            serde_json::from_value(json).unwrap()
        };
        let other =
            serde_json::from_value(serde_json::json!({"status": {"hard": {"requests.cpu": "25"}}})).unwrap();
        let found = tightest(&[other, quota("50", "10"), quota("40", "3")], 3);
        assert_eq!(found, Some(Quota { jobs: 40, others: 0 }));
        assert_eq!(
            tightest(&[quota("50", "20")], 3),
            Some(Quota { jobs: 50, others: 17 })
        );
        assert_eq!(tightest(&[], 3), None);
    }
}
