//! Jobs that nobody will adopt are deleted by any worker; those of live runs are not.

use crate::setup::LIMIT;
use crate::system::System;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::eventually;
use testkit::kube::Kind;

/// A Job of ours that has ended.
fn job(name: &str, run: &str, step: &str, managed_by: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "agent-tools", "labels": {
            "app": "agent-tool", "app.kubernetes.io/managed-by": managed_by, "tool": "shell", "run-id": run, "step-id": step,
        }},
        "spec": {"template": {"spec": {"containers": [], "restartPolicy": "Never"}}},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_ended_runs_and_settled_steps_go_and_all_others_stay() {
    let system = System::start().await;
    let api = &system.bed.api;
    let _worker = system.worker(&[]).await;
    let ended = system.begin(&["echo first"]).await;
    system.wait_status(&ended, "completed", LIMIT).await;
    let active = system.begin(&["echo first", "sleep 300"]).await;
    eventually(LIMIT, || std::future::ready(api.all_starts().len() == 3)).await;
    let step = "SELECT id::text FROM agent_steps WHERE run_id::text = $1 AND step_number = 1";
    let (of_ended, of_active) = (system.text(step, &ended).await, system.text(step, &active).await);
    api.put(Kind::Job, job("agent-ended", &ended, &of_ended, "agent-worker"));
    api.put(
        Kind::Job,
        job("agent-settled", &active, &of_active, "agent-worker"),
    );
    api.put(
        Kind::Job,
        job("agent-foreign", &ended, &of_ended, "somebody-else"),
    );
    let names = || -> Vec<String> {
        let jobs = api.objects(Kind::Job).into_iter();
        jobs.map(|job| job["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    eventually(LIMIT, || {
        let left = names();
        std::future::ready(
            !left
                .iter()
                .any(|name| name == "agent-ended" || name == "agent-settled"),
        )
    })
    .await;
    let left = names();
    assert!(left.contains(&"agent-foreign".to_owned()), "{left:?}");
    assert_eq!(left.len(), 2, "the one that runs is followed: {left:?}");
    system.act("stop", &active).await;
    system.wait_status(&active, "cancelled", LIMIT).await;
    eventually(Duration::from_secs(5), || {
        std::future::ready(names() == ["agent-foreign"])
    })
    .await;
}
