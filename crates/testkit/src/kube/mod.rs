//! A Kubernetes API server in this process, with a Job controller and a kubelet that really runs the pods.
//!
//! It behaves as a 1.34 server was measured to behave, not as our code would like it: a Job deleted without a policy leaves its
//! pod running, a finished Job holds its place in the quota, a full quota hides that a name is taken, a log read again begins
//! at the newest file. Containers are processes in namespaces of their own (bubblewrap), as the user the pod names, with the
//! real entry point as process 1.
//!
//! Invariants:
//! - All objects are under one lock; a list and the watch from its version fit together without a gap.
//! - A pod's processes are gone before its status says that they ended, unless the node is lost or the grace period was 0.
//! - The worker's token has the rights of `k8s/rbac.yaml`, and the quota is that of `k8s/resource-quota.yaml`.
//! - Nothing outlives the test process.
//!
//! Where it is simpler than the real one: one node; pods share one network namespace, whose loopback leads to the ports that
//! the options name (without root they have the host's network); quotas are free again at once; lists come in one page.

mod admission;
mod api;
mod clock;
mod collector;
mod container;
mod controller;
mod discovery;
mod faults;
mod kind;
mod kubelet;
mod life;
mod logs;
mod network;
mod object;
mod options;
mod pod;
mod protobuf;
mod quota;
mod request;
mod rights;
mod rootfs;
mod schema;
mod security;
mod server;
mod status;
mod store;
mod tell;
mod verbs;
mod volumes;
mod watch;

pub use api::KubeApi;
pub use faults::{Fault, On};
pub use kind::Kind;
pub use options::{Delays, Options};
pub use status::Status;

use faults::Faults;
use logs::Log;
use rights::Role;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::State;
use tokio::sync::{mpsc, watch as channel};

/// What tests change while all runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// A violation of `restricted` that every pod has.
    pub(crate) violation: Option<String>,
    /// No node has room.
    pub(crate) unschedulable: bool,
    /// Added to the header `Date`.
    pub(crate) skew_seconds: i64,
}

/// What a test does to a running pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Blow {
    /// Its main process is killed for want of memory.
    Oom,
    /// Its main process is killed, and nobody knows why.
    Kill,
    /// Its main process is stopped: it hears no signal but the last.
    Freeze,
    /// The pod's own time limit is over.
    Deadline,
    /// By the eviction API: told to end, then deleted.
    Evict,
    /// By the kubelet, with this message: ended, the pod stays.
    EvictByNode(String),
    /// Its node stops: processes gone, no word of it.
    NodeLost,
}

/// How long a pod took to end.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Name of the Job.
    pub job: String,
    /// From the moment the kubelet was told until the last process was gone.
    pub took: Duration,
}

/// Everything the server, the controllers and the kubelet share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) options: Options,
    state: Mutex<State>,
    moved: channel::Sender<u64>,
    faults: Mutex<Faults>,
    role: Mutex<Role>,
    policy: Mutex<Policy>,
    logs: Mutex<HashMap<(String, String), Arc<Log>>>,
    blows: Mutex<HashMap<String, mpsc::UnboundedSender<Blow>>>,
    stops: Mutex<Vec<Stop>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    fn new(options: Options, role: Role) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new()),
            moved: channel::Sender::new(0),
            faults: Mutex::new(Faults::new(options.seed)),
            role: Mutex::new(role),
            policy: Mutex::default(),
            logs: Mutex::default(),
            blows: Mutex::default(),
            stops: Mutex::default(),
            options,
        })
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&locked(&self.state))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, version) = {
            let mut state = locked(&self.state);
            let result = change(&mut state);
            state.refresh_quotas();
            (result, state.version)
        };
        self.moved
            .send_if_modified(|known| std::mem::replace(known, version) != version);
        result
    }

    /// Moves whenever anything does.
    fn changes(&self) -> channel::Receiver<u64> {
        self.moved.subscribe()
    }

    fn policy(&self) -> Policy {
        locked(&self.policy).clone()
    }

    /// Changes the policy, and lets everybody look again.
    fn set_policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut locked(&self.policy));
        self.moved.send_modify(|_| {});
    }

    fn log(&self, uid: &str, container: &str) -> Option<Arc<Log>> {
        locked(&self.logs)
            .get(&(uid.to_owned(), container.to_owned()))
            .cloned()
    }

    fn new_log(&self, uid: &str, container: &str) -> Arc<Log> {
        let log = Log::new(self.options.log_file_bytes);
        locked(&self.logs).insert((uid.to_owned(), container.to_owned()), Arc::clone(&log));
        log
    }

    fn update_pod(&self, uid: &str, change: impl FnOnce(&mut Value)) -> bool {
        self.write(|state| state.update(Kind::Pod, uid, change))
    }
}
