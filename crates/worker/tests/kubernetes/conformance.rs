//! The cases of every sandbox, on Jobs: of the fake cluster, or of the one that `TEST_KUBECONFIG` names.

use crate::cases::{Backend, Traits, for_each_case};
use crate::setup::{Bed, Worker, worker_of};
use std::time::Duration;

/// Sizes that a case can reach, as on the other sandboxes.
const SIZES: [&str; 4] = [
    "--workspace-max-file-bytes",
    "8388608",
    "--workspace-max-bytes",
    "67108864",
];

async fn jobs() -> Backend {
    match std::env::var("TEST_KUBECONFIG")
        .ok()
        .filter(|path| !path.is_empty())
    {
        Some(kubeconfig) => real(&kubeconfig).await,
        None => fake().await,
    }
}

async fn fake() -> Backend {
    let bed = Bed::start().await;
    let worker = bed.worker(&SIZES).await;
    let has_groups = std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| own.contains(":memory:"));
    let traits = Traits {
        shares_machine: true,
        limits_processes: has_groups,
        limits_memory: has_groups,
        tells_of_killed_children: has_groups,
        has_loopback: false,
        stops_within: Duration::from_secs(2),
        api_server: Some(("127.0.0.1".to_owned(), bed.api.port())),
    };
    let store = format!("http://127.0.0.1:{}/", bed.s3.port());
    backend(worker, traits, store, vec![Box::new(bed)])
}

/// A cluster of somebody's, and a store that its pods reach.
async fn real(kubeconfig: &str) -> Backend {
    let given = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let endpoint = given("TEST_S3_ENDPOINT", "");
    assert!(
        !endpoint.is_empty(),
        "TEST_S3_ENDPOINT names no store that pods reach"
    );
    let namespace = given("K8S_TOOL_NAMESPACE", "agent-tools");
    let image = given("TOOL_IMAGE", "agent-tools:phase2b");
    let bucket = given("TEST_S3_BUCKET", "agent-workspaces");
    let (access, secret) = (given("TEST_S3_ACCESS_KEY", ""), given("TEST_S3_SECRET_KEY", ""));
    let mut line = vec!["test", "--k8s-in-cluster", "false", "--kubeconfig", kubeconfig];
    line.extend(["--k8s-tool-namespace", &namespace, "--tool-image", &image]);
    line.extend(["--s3-endpoint", &endpoint, "--s3-workspace-bucket", &bucket]);
    line.extend(["--s3-access-key", &access, "--s3-secret-key", &secret]);
    line.extend(SIZES);
    let worker = worker_of(&line).await;
    let traits = Traits {
        shares_machine: false,
        // The kubelet's settings: not ours to ask for.
        limits_processes: false,
        limits_memory: true,
        tells_of_killed_children: false,
        has_loopback: false,
        stops_within: Duration::from_secs(10),
        api_server: None,
    };
    backend(worker, traits, endpoint, vec![])
}

fn backend(
    worker: Worker,
    traits: Traits,
    store: String,
    kept: Vec<Box<dyn std::any::Any + Send + Sync>>,
) -> Backend {
    Backend {
        sandbox: worker.sandbox,
        workspaces: worker.workspaces,
        store,
        traits,
        kept,
    }
}

macro_rules! on_jobs {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                crate::cases::$module::$case(&jobs().await).await;
            }
        )*
    };
}

for_each_case!(on_jobs);
