//! The cluster as tests hold it.

use super::kind::Kind;
use super::kubelet::{self, Node};
use super::network::Spawner;
use super::rights::{Role, manifest};
use super::server::{AS_WORKER, Server, TOKEN};
use super::{Blow, Cluster, Fault, On, Options, Stop, collector, container, controller, locked, object};
use crate::guard::{Ending, Guard};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};

/// A cluster with an API server. Dropped = all of it is gone.
#[derive(Debug)]
pub struct KubeApi {
    cluster: Arc<Cluster>,
    server: tokio::sync::Mutex<Option<Server>>,
    /// Of the cluster alone: what runs in it ends with it.
    runtime: Option<Runtime>,
    port: u16,
    dir: PathBuf,
    _guard: Guard,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl KubeApi {
    /// Starts it, with the quota of `k8s/resource-quota.yaml`.
    pub async fn start(options: Options) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("testkit-kube")
            .enable_all()
            .build()
            .expect("a runtime can be built");
        let task = runtime.spawn(Self::start_here(options));
        let mut api = task.await.expect("the cluster starts");
        api.runtime = Some(runtime);
        api
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it is only taken on drop").handle()
    }

    async fn start_here(options: Options) -> Self {
        let disk = std::env::var_os("TESTKIT_DIR").filter(|dir| !dir.is_empty());
        // Not on the RAM disk: what pods write there would count as their memory.
        let parent = disk.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let dir = crate::dir::fresh_below(&parent, "kube");
        let guard = Guard::new(Ending::KillGroup, &dir);
        // Other users run in directories below.
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(&dir, open).expect("it is ours");
        if let Some(supervisor) = &options.supervisor {
            std::fs::copy(supervisor, dir.join("supervisor"))
                .unwrap_or_else(|error| panic!("{}: {error}", supervisor.display()));
        }
        container::sweep();
        let port = crate::free_port();
        let spawner = Spawner::start(&options.reach).await;
        let cluster = Cluster::new(options, Role::read(&repository().join("k8s/rbac.yaml")));
        cluster.write(|state| {
            for mut quota in manifest(&repository().join("k8s/resource-quota.yaml")) {
                quota["status"] = json!({"hard": quota["spec"]["hard"]});
                state.insert(Kind::Quota, quota);
            }
        });
        let node = Node::new(spawner, dir.clone());
        tokio::spawn(controller::run(Arc::clone(&cluster)));
        tokio::spawn(collector::run(Arc::clone(&cluster)));
        tokio::spawn(kubelet::run(Arc::clone(&cluster), node));
        let server = Server::start(Arc::clone(&cluster), port)
            .await
            .expect("the port is free");
        let api = Self {
            cluster,
            server: tokio::sync::Mutex::new(Some(server)),
            runtime: None,
            port,
            dir,
            _guard: guard,
        };
        api.write_kubeconfig();
        api
    }

    fn write_kubeconfig(&self) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake", "preferences": {},
            "clusters": [{"name": "fake", "cluster": {"server": self.url()}}],
            "users": [{"name": "worker", "user": {"token": TOKEN}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "worker", "namespace": "agent-tools"}}],
        });
        std::fs::write(self.kubeconfig(), config.to_string()).expect("our own directory");
    }

    /// `http://127.0.0.1:PORT`; who comes without a token may do all.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Who comes by this URL without a token has the worker's rights.
    pub fn worker_url(&self) -> String {
        format!("{}{AS_WORKER}", self.url())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A kubeconfig with the worker's token.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The bearer token that has the Role's rights.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// Closes the port and every connection; pods go on.
    pub async fn go_away(&self) {
        if let Some(server) = self.server.lock().await.take() {
            let stopped = self.handle().spawn(server.stop());
            stopped.await.expect("the server stops");
        }
    }

    /// Opens the port again.
    pub async fn come_back(&self) {
        let mut server = self.server.lock().await;
        let (cluster, port) = (Arc::clone(&self.cluster), self.port);
        let started = self.handle().spawn(Server::start(cluster, port));
        *server = Some(started.await.expect("it runs").expect("the port is free"));
    }

    /// Sets a fault; it stays until [`KubeApi::heal`] or its count is used up.
    pub fn inject(&self, fault: Fault, on: On) {
        locked(&self.cluster.faults).add(fault, on);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        locked(&self.cluster.faults).clear();
    }

    /// How often each (verb, resource) was asked.
    pub fn requests(&self) -> BTreeMap<(String, String), u64> {
        locked(&self.cluster.faults).counts.clone()
    }

    /// Every object of a kind, sorted by name.
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        self.cluster.read(|state| state.list(kind, "").cloned().collect())
    }

    /// Pods of a Job, by its name.
    pub fn pods_of(&self, job: &str) -> Vec<Value> {
        self.cluster
            .read(|state| controller::pods_of(state, job).cloned().collect())
    }

    /// How often a main container of a Job of this name was started.
    pub fn starts(&self, job: &str) -> u32 {
        self.cluster
            .read(|state| state.figures.starts.get(job).copied().unwrap_or(0))
    }

    /// The same of all Jobs.
    pub fn all_starts(&self) -> BTreeMap<String, u32> {
        self.cluster.read(|state| state.figures.starts.clone())
    }

    /// Names of all Jobs ever made, with how often.
    pub fn made_jobs(&self) -> BTreeMap<String, u32> {
        self.cluster.read(|state| state.figures.made_jobs.clone())
    }

    /// Most Jobs there were at one instant.
    pub fn peak_jobs(&self) -> usize {
        self.cluster.read(|state| state.figures.peak_jobs)
    }

    /// Every pod that was told to end, and how long that took.
    pub fn stops(&self) -> Vec<Stop> {
        locked(&self.cluster.stops).clone()
    }

    /// `status.used` of the quota.
    pub fn quota_used(&self, resource: &str) -> String {
        let quotas = self.objects(Kind::Quota);
        let used = quotas.first().map(|quota| &quota["status"]["used"][resource]);
        used.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Puts in an object as an administrator would; an old one of that name goes first.
    pub fn put(&self, kind: Kind, object: Value) -> Value {
        self.cluster.write(|state| {
            let old = state.get(kind, object::namespace(&object), object::name(&object));
            if let Some(uid) = old.map(|old| object::uid(old).to_owned()) {
                state.remove(kind, &uid);
            }
            state.insert(kind, object)
        })
    }

    /// Takes an object away at once, whatever depends on it.
    pub fn take(&self, kind: Kind, namespace: &str, name: &str) {
        self.cluster.write(|state| {
            let uid = state
                .get(kind, namespace, name)
                .map(|found| object::uid(found).to_owned());
            if let Some(uid) = uid {
                state.remove(kind, &uid);
            }
        });
    }

    /// Replaces the quota's figures; an empty list takes the quota away.
    pub fn set_quota(&self, hard: &[(&str, &str)]) {
        let hard: serde_json::Map<String, Value> = hard
            .iter()
            .map(|(name, limit)| ((*name).to_owned(), (*limit).into()))
            .collect();
        let hard = Value::Object(hard);
        let names: Vec<Value> = self.objects(Kind::Quota);
        self.cluster.write(|state| {
            for quota in names {
                if hard.as_object().is_some_and(serde_json::Map::is_empty) {
                    state.remove(Kind::Quota, object::uid(&quota));
                } else {
                    state.update(Kind::Quota, object::uid(&quota), |quota| {
                        quota["spec"]["hard"] = hard.clone();
                        quota["status"]["hard"] = hard.clone();
                    });
                }
            }
        });
    }

    /// Every pod breaks `restricted` in this way from now on; nothing = as the pod is.
    pub fn set_violation(&self, text: Option<&str>) {
        self.cluster
            .set_policy(|policy| policy.violation = text.map(str::to_owned));
    }

    /// Whether a pod finds a node.
    pub fn set_room(&self, room: bool) {
        self.cluster.set_policy(|policy| policy.unschedulable = !room);
    }

    /// What the header `Date` is off by.
    pub fn set_skew_seconds(&self, seconds: i64) {
        self.cluster.set_policy(|policy| policy.skew_seconds = seconds);
    }

    /// Takes a right from the Role; resources may be `pods/log`.
    pub fn revoke(&self, verb: &str, resource: &str) {
        locked(&self.cluster.role).revoke(verb, resource);
    }

    /// Gives all rights of the manifest back.
    pub fn restore_rights(&self) {
        *locked(&self.cluster.role) = Role::read(&repository().join("k8s/rbac.yaml"));
    }

    /// Forgets all changes so far: watches from an older version get 410.
    pub fn compact(&self) {
        self.cluster.write(super::store::State::compact);
    }

    fn blow(&self, job: &str, blow: &Blow) {
        let senders = locked(&self.cluster.blows);
        let pods = self.pods_of(job);
        assert!(!pods.is_empty(), "no pod of {job}");
        for pod in pods {
            if let Some(sender) = senders.get(object::uid(&pod)) {
                // A pod that ended this moment feels nothing.
                drop(sender.send(blow.clone()));
            }
        }
    }

    /// Kills the main process of the Job's pod for want of memory.
    pub fn oom(&self, job: &str) {
        self.blow(job, &Blow::Oom);
    }

    /// Kills the main process of the Job's pod, without a reason anybody sees.
    pub fn kill(&self, job: &str) {
        self.blow(job, &Blow::Kill);
    }

    /// Stops the main process of the Job's pod: it hears no signal but SIGKILL.
    pub fn freeze(&self, job: &str) {
        self.blow(job, &Blow::Freeze);
    }

    /// Ends the Job's pod as at its `activeDeadlineSeconds`.
    pub fn expire(&self, job: &str) {
        self.blow(job, &Blow::Deadline);
    }

    /// Evicts the Job's pod as a drain does.
    pub fn evict(&self, job: &str) {
        self.blow(job, &Blow::Evict);
    }

    /// Evicts the Job's pod as a kubelet under pressure does.
    pub fn evict_by_node(&self, job: &str, message: &str) {
        self.blow(job, &Blow::EvictByNode(message.to_owned()));
    }

    /// Stops the node under the Job's pod.
    pub fn lose_node(&self, job: &str) {
        self.blow(job, &Blow::NodeLost);
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
