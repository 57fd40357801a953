//! What the kubelet tells of a pod.

use super::container::{Exit, terminated};
use super::kind::Kind;
use super::life::Life;
use super::{Blow, clock, object, verbs};
use serde_json::{Value, json};
use tokio::time::sleep;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// Told to end within so many seconds, or the object is gone.
    Deleted(u64),
    Deadline,
    Blow(Blow),
}

/// How the main container ended, as far as the pod's state needs it.
pub(super) enum Ending {
    Exit(Exit),
    Deadline(Exit),
    Evicted(Exit, String),
    Deleted(Exit),
    Lost,
}

impl Life {
    pub(super) fn tell(&self, list: &str, index: usize, state: &Value) {
        let field = if list == "containers" {
            "containerStatuses"
        } else {
            "initContainerStatuses"
        };
        let spec = &self.pod["spec"][list][index];
        let running = state["running"].is_object();
        let told = json!({
            "name": spec["name"], "image": spec["image"], "imageID": "", "ready": running, "started": running,
            "restartCount": 0, "lastState": {}, "state": state,
        });
        self.status(|status| {
            if !status[field].is_array() {
                status[field] = json!([]);
            }
            if let Some(all) = status[field].as_array_mut() {
                all.retain(|one| one["name"] != told["name"]);
                all.push(told);
            }
        });
    }

    pub(super) fn tell_running(&self, started: &str) {
        if !self.is_there() {
            return;
        }
        self.tell("containers", 0, &json!({"running": {"startedAt": started}}));
        self.status(|status| {
            status["phase"] = "Running".into();
            status["podIP"] = "10.1.0.1".into();
            set_condition(status, "Ready", ("True", "", ""));
        });
    }

    /// By the eviction API: a condition, then a deletion like any other.
    pub(super) fn evict(&self) {
        let message = "Eviction API: evicting";
        self.status(|status| {
            set_condition(
                status,
                "DisruptionTarget",
                ("True", "EvictionByEvictionAPI", message),
            );
        });
        self.delete();
    }

    pub(super) fn delete(&self) {
        self.cluster.write(|state| {
            if let Some(pod) = state.by_uid(Kind::Pod, &self.uid).cloned() {
                verbs::delete_pod(state, &pod, None);
            }
        });
    }

    pub(super) async fn never_started(&self, interrupt: &Interrupt) {
        match interrupt {
            Interrupt::Deadline | Interrupt::Blow(Blow::Deadline) => self.deadline(),
            Interrupt::Blow(Blow::EvictByNode(message)) => self.evicted(message),
            Interrupt::Blow(Blow::NodeLost) => self.lost().await,
            Interrupt::Blow(_) => {
                self.evict();
                self.cluster.write(|state| state.remove(Kind::Pod, &self.uid));
            }
            Interrupt::Deleted(_) => {
                self.status(|status| status["phase"] = "Failed".into());
                self.cluster.write(|state| state.remove(Kind::Pod, &self.uid));
            }
        }
    }

    pub(super) fn deadline(&self) {
        self.status(|status| {
            status["phase"] = "Failed".into();
            status["reason"] = "DeadlineExceeded".into();
            status["message"] = "Pod was active on the node longer than the specified deadline".into();
            set_condition(status, "Ready", ("False", "PodFailed", ""));
        });
    }

    pub(super) fn evicted(&self, message: &str) {
        self.status(|status| {
            status["phase"] = "Failed".into();
            status["reason"] = "Evicted".into();
            status["message"] = message.into();
            set_condition(
                status,
                "DisruptionTarget",
                ("True", "TerminationByKubelet", message),
            );
            set_condition(status, "Ready", ("False", "PodFailed", ""));
        });
        self.event(true, "Evicted", message);
    }

    pub(super) async fn ended(&self, ending: Ending, started: &str) {
        let state = |exit: Exit| terminated(exit, started, &clock::stamp());
        match ending {
            Ending::Exit(exit) => {
                self.node.next_report(&self.cluster).await;
                self.tell("containers", 0, &state(exit));
                let phase = if exit.code == 0 { "Succeeded" } else { "Failed" };
                self.status(|status| {
                    status["phase"] = phase.into();
                    set_condition(
                        status,
                        "Ready",
                        (
                            "False",
                            if exit.code == 0 {
                                "PodCompleted"
                            } else {
                                "PodFailed"
                            },
                            "",
                        ),
                    );
                });
            }
            Ending::Deadline(exit) => {
                self.tell("containers", 0, &state(exit));
                self.deadline();
            }
            Ending::Evicted(exit, message) => {
                self.tell("containers", 0, &state(exit));
                self.evicted(&message);
            }
            Ending::Deleted(exit) => {
                self.tell("containers", 0, &state(exit));
                self.status(|status| {
                    status["phase"] = if exit.code == 0 { "Succeeded" } else { "Failed" }.into();
                });
                self.node.next_report(&self.cluster).await;
                self.cluster.write(|state| state.remove(Kind::Pod, &self.uid));
            }
            Ending::Lost => return self.lost().await,
        }
        // Deleted while its end was not told yet.
        if !self.is_there() {
            self.cluster.write(|state| state.remove(Kind::Pod, &self.uid));
        }
    }

    /// Nothing is told any more; after the toleration the pod is deleted, and nobody confirms it.
    pub(super) async fn lost(&self) {
        self.cluster
            .write(|state| state.figures.lost.insert(self.uid.clone()));
        let tolerations = self.pod["spec"]["tolerations"].as_array().into_iter().flatten();
        let own = tolerations
            .filter(|one| object::text(one, "/key").starts_with("node.kubernetes.io/unreachable"))
            .find_map(|one| one["tolerationSeconds"].as_u64());
        let seconds = u32::try_from(own.unwrap_or(300)).unwrap_or(300);
        sleep(self.cluster.options.delays.second * seconds).await;
        let message = "Taint manager: deleting due to NoExecute taint";
        self.status(|status| {
            set_condition(
                status,
                "DisruptionTarget",
                ("True", "DeletionByTaintManager", message),
            );
        });
        self.delete();
    }
}

pub(super) fn set_condition(status: &mut Value, kind: &str, (value, reason, message): (&str, &str, &str)) {
    let mut condition = json!({
        "type": kind, "status": value, "lastProbeTime": null, "lastTransitionTime": clock::stamp(),
    });
    if !reason.is_empty() {
        condition["reason"] = reason.into();
    }
    if !message.is_empty() {
        condition["message"] = message.into();
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(all) = status["conditions"].as_array_mut() {
        all.retain(|one| one["type"] != kind);
        all.push(condition);
    }
}
