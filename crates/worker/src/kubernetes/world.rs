//! What the two watches have told: every tool Job of the namespace and its pod.
//!
//! Events may come late, twice, out of order, or not at all followed by a fresh list; the newest version of an object counts,
//! a deleted one does not come back, and what a fresh list lacks was deleted while nobody listened. The last state of a pod
//! that is gone is kept for a while: it says why.

use super::seen::{JobSeen, PodSeen};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Pods and uids of deleted objects that are remembered.
const REMEMBERED: usize = 1024;

/// Something with identity and version.
pub trait Object: Clone {
    fn uid(&self) -> &str;
    fn version(&self) -> u64;
}

impl Object for JobSeen {
    fn uid(&self) -> &str {
        &self.uid
    }
    fn version(&self) -> u64 {
        self.version
    }
}

impl Object for PodSeen {
    fn uid(&self) -> &str {
        &self.uid
    }
    fn version(&self) -> u64 {
        self.version
    }
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<T> {
    Apply(T),
    Delete(T),
    /// A fresh list begins, has this, and ends.
    ListBegins,
    Listed(T),
    ListEnds,
}

/// Objects of one kind, by uid.
#[derive(Debug)]
pub struct Objects<T> {
    present: HashMap<String, T>,
    /// Gone: with the last state, oldest first.
    gone: VecDeque<T>,
    deleted: HashSet<String>,
    listed: Option<HashSet<String>>,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self {
            present: HashMap::new(),
            gone: VecDeque::new(),
            deleted: HashSet::new(),
            listed: None,
        }
    }
}

impl<T: Object> Objects<T> {
    pub fn take(&mut self, news: News<T>) {
        match news {
            News::Apply(object) => self.apply(object),
            News::Delete(object) => {
                self.deleted.insert(object.uid().to_owned());
                self.apply_last(object);
            }
            News::ListBegins => self.listed = Some(HashSet::new()),
            News::Listed(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(object.uid().to_owned());
                }
                // It is there: what told us of its end was wrong, or it is the end that the list does not know yet.
                self.apply(object);
            }
            News::ListEnds => {
                let listed = self.listed.take().unwrap_or_default();
                let missing = self.present.keys().filter(|uid| !listed.contains(*uid));
                for uid in missing.cloned().collect::<Vec<_>>() {
                    self.remove(&uid);
                }
            }
        }
    }

    fn apply(&mut self, object: T) {
        if self.deleted.contains(object.uid()) {
            return;
        }
        let known = self.present.get(object.uid()).map(Object::version);
        if known.is_none_or(|known| known <= object.version()) {
            self.present.insert(object.uid().to_owned(), object);
        }
    }

    /// A deletion tells the last state.
    fn apply_last(&mut self, object: T) {
        let uid = object.uid().to_owned();
        let newer = self
            .present
            .get(&uid)
            .is_none_or(|known| known.version() <= object.version());
        if newer {
            self.present.insert(uid.clone(), object);
        }
        self.remove(&uid);
    }

    fn remove(&mut self, uid: &str) {
        let Some(object) = self.present.remove(uid) else {
            return;
        };
        self.gone.retain(|gone| gone.uid() != uid);
        self.gone.push_back(object);
        if self.gone.len() > REMEMBERED {
            self.gone.pop_front();
        }
        if self.deleted.len() > REMEMBERED {
            let kept: HashSet<String> = self.gone.iter().map(|gone| gone.uid().to_owned()).collect();
            self.deleted.retain(|uid| kept.contains(uid));
        }
    }

    /// The API server was asked and has it.
    fn insist(&mut self, object: T) {
        self.deleted.remove(object.uid());
        self.apply(object);
    }
}

/// Where the Job of a call and its pod stand.
#[derive(Debug, Clone, Default)]
pub struct Look {
    pub job: Option<JobSeen>,
    pub pod: Option<PodSeen>,
    pub pod_is_gone: bool,
    /// A clock that stands still while one of the watches is not heard.
    pub heard: Duration,
}

/// One of the two watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Jobs,
    Pods,
}

#[derive(Debug, Default)]
struct State {
    jobs: Objects<JobSeen>,
    pods: Objects<PodSeen>,
    /// Which watch is in step.
    in_step: [bool; 2],
    /// Time both were, up to `heard_since`.
    heard: Duration,
    heard_since: Option<Instant>,
}

impl State {
    fn note(&mut self, kind: Kind, in_step: bool) {
        self.in_step[usize::from(kind == Kind::Pods)] = in_step;
        let now = Instant::now();
        match (self.in_step == [true, true], self.heard_since) {
            (true, None) => self.heard_since = Some(now),
            (false, Some(since)) => {
                self.heard += now.duration_since(since);
                self.heard_since = None;
            }
            _ => {}
        }
    }

    fn heard(&self) -> Duration {
        let running = self.heard_since.map(|since| since.elapsed());
        self.heard + running.unwrap_or_default()
    }
}

/// Shared by the watches, which write it, and the followers of calls, who wait for changes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn jobs(&self, news: News<JobSeen>) {
        let ends = news == News::ListEnds;
        let mut state = self.state();
        state.jobs.take(news);
        if ends {
            state.note(Kind::Jobs, true);
        }
        drop(state);
        self.changed();
    }

    pub fn pods(&self, news: News<PodSeen>) {
        let ends = news == News::ListEnds;
        let mut state = self.state();
        state.pods.take(news);
        if ends {
            state.note(Kind::Pods, true);
        }
        drop(state);
        self.changed();
    }

    /// A watch broke off; what it told may be old.
    pub fn lost(&self, kind: Kind) {
        self.state().note(kind, false);
        self.changed();
    }

    /// A Job that a call made or was told of: known before the watch says so.
    pub fn insist(&self, job: JobSeen) {
        self.state().jobs.insist(job);
        self.changed();
    }

    /// The pods of a Job, as the API server has them.
    pub fn insist_pods(&self, job_uid: &str, pods: Vec<PodSeen>) {
        let mut state = self.state();
        let gone = |pod: &PodSeen| pod.job_uid == job_uid && pods.iter().all(|there| there.uid != pod.uid);
        let gone: Vec<String> = state
            .pods
            .present
            .values()
            .filter(|pod| gone(pod))
            .map(|pod| pod.uid.clone())
            .collect();
        for uid in gone {
            state.pods.remove(&uid);
        }
        for pod in pods {
            state.pods.insist(pod);
        }
        drop(state);
        self.changed();
    }

    /// A Job that the API server does not have, or that we have deleted.
    pub fn forget(&self, uid: &str) {
        let mut state = self.state();
        state.jobs.deleted.insert(uid.to_owned());
        state.jobs.remove(uid);
        drop(state);
        self.changed();
    }

    /// The Job of this name.
    pub fn job_named(&self, name: &str) -> Option<JobSeen> {
        self.state()
            .jobs
            .present
            .values()
            .find(|job| job.name == name)
            .cloned()
    }

    /// Fires at each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// By the Job's uid.
    pub fn look(&self, job_uid: &str) -> Look {
        let state = self.state();
        let of_job = |pod: &&PodSeen| pod.job_uid == job_uid;
        let present = state.pods.present.values().find(of_job);
        let pod = present.or_else(|| state.pods.gone.iter().rev().find(of_job));
        Look {
            job: state.jobs.present.get(job_uid).cloned(),
            pod: pod.cloned(),
            pod_is_gone: pod.is_some() && present.is_none(),
            heard: state.heard(),
        }
    }

    /// Whether both watches are in step.
    pub fn is_heard(&self) -> bool {
        self.state().heard_since.is_some()
    }

    /// Every Job that is there.
    pub fn all_jobs(&self) -> Vec<JobSeen> {
        self.state().jobs.present.values().cloned().collect()
    }

    /// How many there are; one that is being deleted counts until it is gone.
    pub fn job_count(&self) -> usize {
        self.state().jobs.present.len()
    }

    /// Waits until a Job is gone, at most `patience`; whether it is.
    pub async fn gone(&self, job_uid: &str, patience: Duration) -> bool {
        let mut changes = self.subscribe();
        let gone = async {
            while self.state().jobs.present.contains_key(job_uid) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, gone).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(uid: u8, version: u64) -> PodSeen {
        PodSeen {
            uid: uid.to_string(),
            job_uid: format!("j{uid}"),
            version,
            is_running: version >= 2,
            is_deleted: version >= 4,
            ..PodSeen::default()
        }
    }

    /// The life of one pod: versions 1 to `last`, then perhaps its deletion.
    fn life(uid: u8, last: u64, deleted: bool) -> Vec<News<PodSeen>> {
        let mut life: Vec<News<PodSeen>> = (1..=last).map(|version| News::Apply(pod(uid, version))).collect();
        if deleted {
            life.push(News::Delete(pod(uid, last)));
        }
        life
    }

    proptest! {
        /// Any order, any events lost and any doubled, then a fresh list: the same as every event in its order.
        #[test]
        fn order_loss_and_doubling_make_no_difference(
            lives in proptest::collection::vec((1_u64..6, any::<bool>()), 1..5),
            picks in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
        ) {
            let (mut orderly, mut wild) = (Objects::default(), Objects::default());
            let mut all = vec![];
            for (uid, (last, deleted)) in (0..).zip(&lives) {
                all.extend(life(uid, *last, *deleted));
            }
            for news in &all {
                orderly.take(news.clone());
            }
            for pick in &picks {
                wild.take(all[pick.index(all.len())].clone());
            }
            wild.take(News::ListBegins);
            for (uid, (last, deleted)) in (0..).zip(&lives) {
                if !deleted {
                    wild.take(News::Listed(pod(uid, *last)));
                }
            }
            wild.take(News::ListEnds);
            prop_assert_eq!(&orderly.present, &wild.present);
            // Whatever comes late changes nothing any more.
            for pick in &picks {
                let late = &all[pick.index(all.len())];
                let uid = match late { News::Apply(pod) | News::Delete(pod) => pod.uid.clone(), _ => continue };
                if orderly.present.contains_key(&uid) || wild.deleted.contains(&uid) {
                    wild.take(late.clone());
                }
            }
            prop_assert_eq!(&orderly.present, &wild.present);
        }
    }

    #[test]
    fn the_last_state_of_a_pod_outlives_it() {
        let world = World::default();
        world.pods(News::Apply(pod(1, 3)));
        world.pods(News::Delete(pod(1, 4)));
        let look = world.look("j1");
        assert!(look.pod_is_gone && look.pod.is_some_and(|pod| pod.is_running && pod.is_deleted));
        assert!(world.look("j2").pod.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_counted_only_while_both_watches_are_heard() {
        const SECOND: Duration = Duration::from_secs(1);
        let world = World::default();
        world.pods(News::ListEnds);
        tokio::time::advance(SECOND).await;
        assert_eq!((world.is_heard(), world.look("j").heard), (false, Duration::ZERO));
        world.jobs(News::ListEnds);
        tokio::time::advance(SECOND).await;
        assert_eq!((world.is_heard(), world.look("j").heard), (true, SECOND));
        world.lost(Kind::Pods);
        tokio::time::advance(SECOND).await;
        assert_eq!((world.is_heard(), world.look("j").heard), (false, SECOND));
        world.pods(News::ListEnds);
        tokio::time::advance(SECOND).await;
        assert_eq!(world.look("j").heard, 2 * SECOND);
    }

    #[tokio::test]
    async fn a_job_that_a_fresh_list_lacks_is_gone_until_the_server_says_otherwise() {
        let world = World::default();
        let job = JobSeen {
            uid: "u".to_owned(),
            ..JobSeen::default()
        };
        world.insist(job.clone());
        assert!(!world.gone("u", Duration::ZERO).await);
        world.jobs(News::ListBegins);
        world.jobs(News::ListEnds);
        assert!(world.gone("u", Duration::ZERO).await);
        world.insist(job.clone());
        assert!(world.look("u").job.is_some());
        world.forget("u");
        world.jobs(News::Apply(job));
        assert!(world.look("u").job.is_none(), "a late word of it");
    }
}
