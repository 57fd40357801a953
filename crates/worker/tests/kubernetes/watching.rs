//! `kube`'s own watcher agrees with the fake server: it sees every object through every fault.

use crate::setup::{Bed, LIMIT};
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config};
use serde_json::json;
use std::time::Duration;
use testkit::eventually;
use testkit::kube::{Fault, Kind, On};

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_ends_with_what_the_server_has() {
    for streaming in [false, true] {
        let bed = Bed::start().await;
        let config = Config::new(bed.api.url().parse().unwrap());
        let jobs: Api<Job> = Api::namespaced(Client::try_from(config).unwrap(), "agent-tools");
        let (reader, writer) = reflector::store();
        let config = watcher::Config::default().labels("app=agent-tool");
        let config = if streaming {
            config.streaming_lists()
        } else {
            config
        };
        let stream = reflector(writer, watcher(jobs, config).default_backoff());
        let follow = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        let job = |name: &str| {
            json!({"metadata": {"name": name, "namespace": "agent-tools", "labels": {"app": "agent-tool"}},
                   "spec": {"suspend": true, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}},
                   "status": {"conditions": [{"type": "Complete", "status": "True"}]}})
        };
        let seen = || {
            let mut names: Vec<String> = reader
                .state()
                .iter()
                .filter_map(|job| job.metadata.name.clone())
                .collect();
            names.sort();
            names
        };
        let short = Duration::from_millis(30);
        for fault in [
            Fault::WatchCut(short),
            Fault::WatchGone(short),
            Fault::WatchDouble,
        ] {
            bed.api.inject(fault, On::new("watch", "jobs").times(2));
        }
        for number in 0..20 {
            bed.api.put(Kind::Job, job(&format!("job-{number}")));
            if number % 5 == 4 {
                bed.api.take(Kind::Job, "agent-tools", &format!("job-{number}"));
                bed.api.go_away().await;
                bed.api.compact();
                bed.api.come_back().await;
            }
        }
        let mut there: Vec<String> = (0..20)
            .filter(|n| n % 5 != 4)
            .map(|n| format!("job-{n}"))
            .collect();
        there.sort();
        eventually(LIMIT, || std::future::ready(seen() == there)).await;
        follow.abort();
    }
}
