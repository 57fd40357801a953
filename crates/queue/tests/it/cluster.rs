//! A cluster-enabled server: keys with a hash tag work, plain ones are refused.

use crate::support::{LEASE, LONG, consumer, fresh_run, job, numbers};
use domain::{SystemIds, WorkerId};
use queue::{LiveBus, Queue, RedisOptions, Renewal, Renewer, Settled, Signal};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use testkit::{eventually, free_port};

/// A one-node cluster. Dropped = killed.
struct Cluster {
    _server: tokio::process::Child,
    _dir: tempfile::TempDir,
    port: u16,
}

fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "--raw"])
        .args(args)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let server = tokio::process::Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args([
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &free_port().to_string(),
            ])
            .args(["--dir", dir.path().to_str().unwrap(), "--logfile", "redis.log"])
            .args(["--cluster-announce-ip", "127.0.0.1"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually(LONG, async || cli(port, &["PING"]) == "PONG").await;
        assert_eq!(cli(port, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
        eventually(LONG, async || {
            cli(port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
        })
        .await;
        Self {
            _server: server,
            _dir: dir,
            port,
        }
    }

    fn options(&self, scheme: &str, prefix: &str) -> RedisOptions {
        RedisOptions {
            queue_prefix: Some(prefix.to_owned()),
            ..RedisOptions::for_url(format!("{scheme}://127.0.0.1:{}", self.port))
        }
    }
}

#[tokio::test]
async fn a_queue_with_a_hash_tag_lives_on_a_cluster() {
    let cluster = Cluster::start().await;
    let options = cluster.options("redis-cluster", "{jobs}");
    let queue = Queue::connect(&options).await.unwrap();
    eventually(LONG, async || queue.ping().await.is_ok()).await;
    assert!(queue.server_report().await.unwrap().faults().is_empty());
    assert_eq!(queue.push_all(&[job(1), job(2)]).await.unwrap(), 2);
    assert_eq!(cli(cluster.port, &["LLEN", "{jobs}:pending"]), "2");
    let mut worker = consumer(&queue, "w1", LEASE);
    worker.wait().await;
    let mut claimed = worker.claim(5).await.unwrap();
    assert_eq!(numbers(&claimed), [1, 2]);
    let mut renewer = Renewer::connect(&options, WorkerId::from("w1"), Arc::new(SystemIds)).unwrap();
    eventually(LONG, async || renewer.is_connected()).await;
    let answers = renewer.renew(&[claimed[0].claim()], LEASE).await.unwrap();
    assert_eq!(answers, [Renewal::Held]);
    assert_eq!(
        claimed
            .pop()
            .unwrap()
            .retry(Duration::from_mins(1), "x")
            .await
            .unwrap(),
        Settled::Done
    );
    assert_eq!(claimed.pop().unwrap().ack().await.unwrap(), Settled::Done);
    let depths = queue.depths().await.unwrap();
    assert_eq!((depths.pending, depths.processing, depths.retry), (0, 0, 1));
    assert_eq!(queue.maintenance().audit().await.unwrap(), 0);

    let bus = LiveBus::connect(&options).unwrap();
    bus.connected().wait_for(|yes| *yes).await.unwrap();
    let run_id = fresh_run();
    let mut viewer = bus.subscribe(run_id).await;
    queue.publish_transient(run_id, "x".to_owned()).await.unwrap();
    let heard = async { while viewer.next().await != Signal::Message("x".into()) {} };
    tokio::time::timeout(LONG, heard).await.unwrap();
}

#[tokio::test]
async fn a_plain_prefix_on_a_cluster_server_is_refused() {
    let cluster = Cluster::start().await;
    let queue = Queue::connect(&cluster.options("redis", "jobs")).await.unwrap();
    eventually(LONG, async || queue.ping().await.is_ok()).await;
    assert_eq!(
        queue.server_report().await.unwrap().faults(),
        ["QUEUE_PREFIX (the server is a cluster: use {jobs} instead of jobs)"]
    );
}
