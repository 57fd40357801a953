//! A client that is not ours: kubectl, where it is installed.

use super::setup::{Cluster, LIMIT, job};
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

struct Kubectl(String, tempfile::TempDir);

impl Kubectl {
    async fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new("kubectl")
            .arg(format!("--server={}", self.0))
            .args(["--namespace", "agent-tools"])
            .args(arguments)
            .env("HOME", self.1.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it is installed");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let output = timeout(LIMIT, child.wait_with_output())
            .await
            .expect("it ends")
            .expect("it ran");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    async fn good(&self, arguments: &[&str], input: &str) -> String {
        let (good, text) = self.run(arguments, input).await;
        assert!(good, "kubectl {arguments:?}: {text}");
        text
    }
}

#[tokio::test]
async fn kubectl_works_with_it_as_with_any_cluster() {
    if !["/usr/bin/kubectl", "/usr/local/bin/kubectl"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        println!("skipped: no kubectl");
        return;
    }
    let cluster = Cluster::start().await;
    let kubectl = Kubectl(cluster.api.url(), tempfile::tempdir().expect("a directory"));
    let manifest = job("hello", "echo hello; exit 0").to_string();
    let dry = kubectl
        .good(
            &["create", "--dry-run=server", "--validate=false", "-f", "-"],
            &manifest,
        )
        .await;
    assert!(dry.contains("job.batch/hello created (server dry run)"), "{dry}");
    kubectl
        .good(&["create", "--validate=false", "-f", "-"], &manifest)
        .await;
    kubectl
        .good(
            &["wait", "--for=condition=complete", "job/hello", "--timeout=10s"],
            "",
        )
        .await;
    let logs = kubectl.good(&["logs", "-f", "job/hello"], "").await;
    assert_eq!(logs, "hello\n");
    let pods = kubectl
        .good(&["get", "pods", "-l", "job-name=hello", "-o", "name"], "")
        .await;
    assert!(pods.starts_with("pod/hello-"), "{pods}");
    let described = kubectl.good(&["describe", pods.trim()], "").await;
    assert!(
        described.contains("Exit Code:    0") && described.contains("Started container tool"),
        "{described}"
    );
    let described = kubectl.good(&["describe", "job", "hello"], "").await;
    assert!(
        described.contains("1 Succeeded") && described.contains("SuccessfulCreate"),
        "{described}"
    );
    let quota = kubectl.good(&["describe", "resourcequota"], "").await;
    assert!(quota.contains("count/jobs.batch  1"), "{quota}");
    let worker = Kubectl(
        cluster.api.worker_url(),
        tempfile::tempdir().expect("a directory"),
    );
    for (verb, resource, wanted) in [
        ("delete", "jobs.batch", true),
        ("get", "secrets", false),
        ("watch", "pods", true),
    ] {
        let (allowed, answer) = worker.run(&["auth", "can-i", verb, resource], "").await;
        assert_eq!(allowed, wanted, "{verb} {resource}: {answer}");
    }
    kubectl.good(&["delete", "job", "hello"], "").await;
    let left = kubectl.good(&["get", "jobs,pods"], "").await;
    assert!(left.contains("No resources found"), "{left}");
}
