//! The node: takes every new pod and runs it (`pod.rs`).

use super::kind::Kind;
use super::network::Spawner;
use super::pod::PodRun;
use super::{Cluster, locked, object};
use serde_json::Value;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// The one node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) spawner: Spawner,
    pub(super) dir: PathBuf,
    begun: Instant,
}

impl Node {
    pub(super) fn new(spawner: Spawner, dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            spawner,
            dir,
            begun: Instant::now(),
        })
    }

    /// Waits for the moment at which the kubelet tells states again.
    pub(super) async fn next_report(&self, cluster: &Cluster) {
        let every = cluster.options.delays.report.as_micros().max(1);
        let into = self.begun.elapsed().as_micros() % every;
        sleep(std::time::Duration::from_micros((every - into) as u64)).await;
    }
}

pub(super) async fn run(cluster: Arc<Cluster>, node: Arc<Node>) {
    let mut taken: HashSet<String> = HashSet::new();
    let mut changed = cluster.changes();
    loop {
        changed.mark_unchanged();
        let new: Vec<Value> = cluster.read(|state| {
            let pods = state.list(Kind::Pod, "");
            pods.filter(|pod| !taken.contains(object::uid(pod)))
                .cloned()
                .collect()
        });
        for pod in new {
            let uid = object::uid(&pod).to_owned();
            taken.insert(uid.clone());
            let (blow, blows) = mpsc::unbounded_channel();
            locked(&cluster.blows).insert(uid, blow);
            tokio::spawn(PodRun::new(&cluster, &node, pod, blows).run());
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}
