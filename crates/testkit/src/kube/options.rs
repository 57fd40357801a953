//! What a test chooses at the start.

use std::path::PathBuf;
use std::time::Duration;

/// How long the parts of the cluster take.
#[derive(Debug, Clone)]
pub struct Delays {
    /// From a Job to its pod.
    pub pod: Duration,
    /// From the end of an owner to the end of what it owned.
    pub collect: Duration,
    /// From a pod to its node.
    pub schedule: Duration,
    /// From the node to the container's first process; an init container takes this too.
    pub start: Duration,
    /// The kubelet tells states this often.
    pub report: Duration,
    /// From the pod's end to the Job's.
    pub finish: Duration,
    /// Length of a second in back-offs and in tolerations (not in deadlines).
    pub second: Duration,
}

impl Delays {
    /// As measured on a 1.34 cluster.
    pub fn measured() -> Self {
        Self {
            pod: Duration::from_millis(95),
            collect: Duration::from_millis(50),
            schedule: Duration::from_millis(15),
            start: Duration::from_millis(350),
            report: Duration::from_secs(1),
            finish: Duration::from_secs(2),
            second: Duration::from_secs(1),
        }
    }

    /// For tests about something else.
    pub fn short() -> Self {
        Self {
            pod: Duration::from_millis(10),
            collect: Duration::from_millis(10),
            schedule: Duration::from_millis(5),
            start: Duration::from_millis(20),
            report: Duration::from_millis(50),
            finish: Duration::from_millis(100),
            second: Duration::from_millis(50),
        }
    }
}

/// The cluster to be.
#[derive(Debug, Clone)]
pub struct Options {
    pub namespaces: Vec<String>,
    pub delays: Delays,
    /// Between two bookmarks of a watch.
    pub bookmarks: Duration,
    /// A log file is rotated at this size.
    pub log_file_bytes: usize,
    /// Images with the supervisor inside. All below `foreign/` are there too, without one; any other is not.
    pub images: Vec<String>,
    /// The supervisor's program; without it no container starts.
    pub supervisor: Option<PathBuf>,
    /// Ports of this machine's loopback that pods reach under the same address.
    pub reach: Vec<u16>,
    /// Of the faults' dice.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: vec!["agent-tools".to_owned(), "default".to_owned()],
            delays: Delays::short(),
            bookmarks: Duration::from_secs(1),
            log_file_bytes: 10 * 1024 * 1024,
            images: vec!["agent-tools:phase2b".to_owned()],
            supervisor: None,
            reach: Vec::new(),
            seed: 1,
        }
    }
}
