//! What the node does for a pod before its main container runs: a place, images, volumes, init containers.

use super::container::{Container, terminated};
use super::controller::job_of;
use super::kind::Kind;
use super::kubelet::Node;
use super::rootfs::{self, Root};
use super::tell::set_condition;
use super::volumes::{self, Volume};
use super::{Cluster, clock, object};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::sleep;

/// What does not change while the pod lives.
pub(super) struct Life {
    pub(super) cluster: Arc<Cluster>,
    pub(super) node: Arc<Node>,
    pub(super) pod: Value,
    pub(super) uid: String,
    pub(super) dir: PathBuf,
}

impl Life {
    pub(super) fn status(&self, change: impl FnOnce(&mut Value)) -> bool {
        self.cluster
            .update_pod(&self.uid, |pod| change(&mut pod["status"]))
    }

    pub(super) fn event(&self, warning: bool, reason: &str, message: &str) {
        let source = ("kubelet", warning, reason);
        self.cluster
            .write(|state| state.event(Kind::Pod, &self.pod, source, message));
    }

    pub(super) fn grace(&self) -> u64 {
        self.pod["spec"]["terminationGracePeriodSeconds"]
            .as_u64()
            .unwrap_or(30)
    }

    pub(super) fn is_there(&self) -> bool {
        self.cluster.read(|state| {
            let pod = state.by_uid(Kind::Pod, &self.uid);
            pod.is_some_and(|pod| !object::is_terminating(pod))
        })
    }

    /// Finds a node; false when the pod went away before.
    pub(super) async fn schedule(&self) -> bool {
        let mut changed = self.cluster.changes();
        sleep(self.cluster.options.delays.schedule).await;
        if self.cluster.policy().unschedulable {
            let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                           victims found for incoming pod.";
            self.status(|status| {
                set_condition(status, "PodScheduled", ("False", "Unschedulable", message));
            });
        }
        loop {
            changed.mark_unchanged();
            if !self.is_there() {
                return false;
            }
            if !self.cluster.policy().unschedulable {
                break;
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
        let time = clock::stamp();
        self.cluster.update_pod(&self.uid, |pod| {
            pod["spec"]["nodeName"] = "node-1".into();
            let status = &mut pod["status"];
            status["hostIP"] = "10.0.0.1".into();
            status["startTime"] = time.into();
            set_condition(status, "PodScheduled", ("True", "", ""));
            set_condition(status, "Initialized", ("True", "", ""));
            set_condition(
                status,
                "Ready",
                ("False", "ContainersNotReady", "containers with unready status"),
            );
        });
        let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
        self.tell("containers", 0, &waiting);
        self.is_there()
    }

    /// Pulls, mounts, runs init containers and starts the main one; nothing when it failed and the pod's state says so.
    pub(super) async fn prepare(&self) -> Option<(Container, Vec<Volume>)> {
        self.pull_all().await;
        let volumes = self.mount().await;
        rootfs::write_etc(&self.pod, &self.dir.join("etc"));
        let inits = self.pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
        for index in 0..inits {
            let mut container = self.start("initContainers", index, &volumes).await?;
            let exit = container.wait().await;
            self.node.next_report(&self.cluster).await;
            let time = clock::stamp();
            self.tell("initContainers", index, &terminated(exit, &time, &time));
            if exit.code != 0 {
                self.status(|status| status["phase"] = "Failed".into());
                return None;
            }
        }
        let container = self.start("containers", 0, &volumes).await?;
        Some((container, volumes))
    }

    pub(super) async fn start(&self, list: &str, index: usize, volumes: &[Volume]) -> Option<Container> {
        sleep(self.cluster.options.delays.start).await;
        let spec = &self.pod["spec"][list][index];
        let image = object::text(spec, "/image");
        let inside = self.cluster.options.images.iter().any(|name| name == image);
        let root = Root {
            pod: &self.pod,
            spec,
            volumes,
            supervisor: self
                .cluster
                .options
                .supervisor
                .clone()
                .filter(|_| inside)
                .map(|_| self.node.dir.join("supervisor")),
            etc: &self.dir.join("etc"),
            memory: None,
        };
        if !root.has_program() {
            self.cannot_start(list, index, &root.command()[0]);
            return None;
        }
        if list == "containers" {
            let job = job_of(&self.pod).to_owned();
            self.cluster
                .write(|state| *state.figures.starts.entry(job).or_default() += 1);
        }
        let log = self.cluster.new_log(&self.uid, object::text(spec, "/name"));
        match Container::start(&self.node.spawner, root, log).await {
            Ok(container) => {
                self.event(
                    false,
                    "Started",
                    &format!("Started container {}", object::text(spec, "/name")),
                );
                Some(container)
            }
            Err(error) => {
                self.cannot_start(list, index, &error.to_string());
                None
            }
        }
    }

    pub(super) fn cannot_start(&self, list: &str, index: usize, program: &str) {
        let message = format!(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable \
             to start container process: error during container init: exec: \"{program}\": stat {program}: no such file or directory"
        );
        self.event(true, "Failed", &format!("Error: {message}"));
        self.tell(
            list,
            index,
            &json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": message,
                    "startedAt": "1970-01-01T00:00:00Z", "finishedAt": clock::stamp()}}),
        );
        self.status(|status| status["phase"] = "Failed".into());
    }

    /// Waits until every image is there, for ever if need be.
    pub(super) async fn pull_all(&self) {
        let lists = ["initContainers", "containers"];
        for list in lists {
            for (index, one) in self.pod["spec"][list]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                let image = object::text(one, "/image");
                if !self.cluster.options.images.iter().any(|name| name == image)
                    && !image.starts_with("foreign/")
                {
                    self.cannot_pull(list, index, image).await;
                }
            }
        }
    }

    pub(super) async fn cannot_pull(&self, list: &str, index: usize, image: &str) {
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        if image
            .rsplit_once(':')
            .map_or(image, |(name, _)| name)
            .contains(char::is_uppercase)
        {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format: \
                 repository name must be lowercase"
            );
            self.event(true, "InspectFailed", &message);
            self.tell(list, index, &waiting("InvalidImageName", &message));
            return std::future::pending().await;
        }
        let why = format!(
            "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
        );
        let back_off = format!("Back-off pulling image \"{image}\": ErrImagePull: {why}");
        loop {
            self.event(
                true,
                "Failed",
                &format!("Failed to pull image \"{image}\": {why}"),
            );
            self.tell(list, index, &waiting("ErrImagePull", &why));
            sleep(self.cluster.options.delays.second).await;
            self.tell(list, index, &waiting("ImagePullBackOff", &back_off));
            sleep(self.cluster.options.delays.second * 10).await;
        }
    }

    /// Tries again until every Secret and ConfigMap is there.
    pub(super) async fn mount(&self) -> Vec<Volume> {
        let mut pause = self.cluster.options.delays.second / 2;
        loop {
            match volumes::prepare(&self.cluster, &self.pod, &self.dir) {
                Ok(volumes) => return volumes,
                Err(message) => {
                    self.event(true, "FailedMount", &message);
                    sleep(pause).await;
                    pause = (pause * 2).min(self.cluster.options.delays.second * 120);
                }
            }
        }
    }
}
