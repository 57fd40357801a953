//! The life of one pod on the node: it starts, is interrupted, ends.

use super::container::{Container, Exit};
use super::controller::job_of;
use super::kind::Kind;
use super::kubelet::Node;
use super::life::Life;
use super::tell::{Ending, Interrupt};
use super::volumes::{self, Volume};
use super::{Blow, Cluster, Stop, clock, locked, object};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout};

/// The kubelet looks at the size of volumes this often.
const SIZES: Duration = Duration::from_millis(500);

pub(super) struct PodRun {
    life: Life,
    interrupts: Interrupts,
}

/// What may end it early.
struct Interrupts {
    cluster: Arc<Cluster>,
    uid: String,
    blows: UnboundedReceiver<Blow>,
    deadline: Option<Instant>,
}

impl Interrupts {
    async fn next(&mut self) -> Interrupt {
        let mut changed = self.cluster.changes();
        let far = Instant::now() + Duration::from_hours(24);
        loop {
            changed.mark_unchanged();
            let told = self
                .cluster
                .read(|state| match state.by_uid(Kind::Pod, &self.uid) {
                    None => Some(0),
                    Some(pod) if object::is_terminating(pod) => Some(
                        pod["metadata"]["deletionGracePeriodSeconds"]
                            .as_u64()
                            .unwrap_or(0),
                    ),
                    Some(_) => None,
                });
            if let Some(grace) = told {
                return Interrupt::Deleted(grace);
            }
            tokio::select! {
                moved = changed.changed() => if moved.is_err() { return Interrupt::Deleted(0) },
                Some(blow) = self.blows.recv() => return Interrupt::Blow(blow),
                () = sleep_until(self.deadline.unwrap_or(far)) => return Interrupt::Deadline,
            }
        }
    }
}

impl PodRun {
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        node: &Arc<Node>,
        pod: Value,
        blows: UnboundedReceiver<Blow>,
    ) -> Self {
        let uid = object::uid(&pod).to_owned();
        Self {
            interrupts: Interrupts {
                cluster: Arc::clone(cluster),
                uid: uid.clone(),
                blows,
                deadline: None,
            },
            life: Life {
                cluster: Arc::clone(cluster),
                node: Arc::clone(node),
                dir: node.dir.join(&uid),
                uid,
                pod,
            },
        }
    }

    pub(super) async fn run(mut self) {
        self.go().await;
        locked(&self.life.cluster.blows).remove(&self.life.uid);
        // What a test wants to see of the files it saw while the pod lived.
        drop(std::fs::remove_dir_all(&self.life.dir));
    }

    async fn go(&mut self) {
        if !self.life.schedule().await {
            return;
        }
        let deadline = self.life.pod["spec"]["activeDeadlineSeconds"].as_u64();
        self.interrupts.deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let prepared = tokio::select! {
            prepared = self.life.prepare() => prepared,
            interrupt = self.interrupts.next() => {
                self.life.never_started(&interrupt).await;
                return;
            }
        };
        if let Some((container, volumes)) = prepared {
            self.main(container, &volumes).await;
        }
    }

    async fn main(&mut self, mut container: Container, volumes: &[Volume]) {
        let started = clock::stamp();
        let mut told = false;
        let node = Arc::clone(&self.life.node);
        let mut sizes = Instant::now() + SIZES;
        let ending = loop {
            tokio::select! {
                exit = container.wait() => break Ending::Exit(exit),
                () = node.next_report(&self.life.cluster), if !told => {
                    self.life.tell_running(&started);
                    told = true;
                }
                () = sleep_until(sizes) => {
                    sizes = Instant::now() + SIZES;
                    if let Some(message) = too_large(volumes) {
                        break self.stop(&mut container, 1, |exit| Ending::Evicted(exit, message)).await;
                    }
                }
                interrupt = self.interrupts.next() => match interrupt {
                    Interrupt::Deleted(grace) => {
                        break self.stop(&mut container, grace, Ending::Deleted).await;
                    }
                    Interrupt::Deadline | Interrupt::Blow(Blow::Deadline) => {
                        let grace = self.life.grace();
                        break self.stop(&mut container, grace, Ending::Deadline).await;
                    }
                    Interrupt::Blow(Blow::Oom) => container.out_of_memory(),
                    Interrupt::Blow(Blow::Kill) => container.kill(),
                    Interrupt::Blow(Blow::Freeze) => container.freeze(),
                    Interrupt::Blow(Blow::Evict) => self.life.evict(),
                    Interrupt::Blow(Blow::EvictByNode(message)) => {
                        let grace = self.life.grace();
                        break self.stop(&mut container, grace, |exit| Ending::Evicted(exit, message)).await;
                    }
                    Interrupt::Blow(Blow::NodeLost) => {
                        container.kill();
                        container.wait().await;
                        break Ending::Lost;
                    }
                },
            }
        };
        drop(container);
        self.life.ended(ending, &started).await;
    }

    /// TERM, the grace period, KILL.
    async fn stop(
        &self,
        container: &mut Container,
        grace: u64,
        ending: impl FnOnce(Exit) -> Ending,
    ) -> Ending {
        let begun = Instant::now();
        self.life.event(false, "Killing", "Stopping container");
        container.terminate();
        let in_time = timeout(Duration::from_secs(grace.max(1)), container.wait()).await;
        let exit = if let Ok(exit) = in_time {
            exit
        } else {
            container.kill();
            container.wait().await
        };
        locked(&self.life.cluster.stops).push(Stop {
            job: job_of(&self.life.pod).to_owned(),
            took: begun.elapsed(),
        });
        ending(exit)
    }
}

fn too_large(volumes: &[Volume]) -> Option<String> {
    volumes.iter().find_map(|volume| {
        let limit = volume.size_limit?;
        let message = format!(
            "Usage of EmptyDir volume \"{}\" exceeds the limit \"{limit}\". ",
            volume.name
        );
        (volumes::size(&volume.dir) > limit).then_some(message)
    })
}
