//! A run that asks, in the whole system: with workers killed, the API restarted and Redis emptied in between.

use crate::support::{LONG, Setup, System, message, script, write};
use serde_json::{Value, json};

impl System {
    async fn interrupts(&self, run: &str, query: &str) -> Vec<Value> {
        let url = format!("{}/agent/run/{run}/interrupts{query}", self.base);
        let request = self.client.get(url).bearer_auth(&self.token);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["success"], true, "{answer}");
        answer["interrupts"].as_array().unwrap().clone()
    }

    async fn decide(&self, run: &str, interrupt: &Value, decision: &Value) -> (u16, Value) {
        let id = interrupt["id"].as_str().unwrap();
        let url = format!("{}/agent/run/{run}/interrupts/{id}", self.base);
        let request = self.client.post(url).bearer_auth(&self.token).json(decision);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn begin_under(&self, prompt: &str, rules: Value) -> String {
        let mut body = json!({"action": "create", "prompt": prompt, "auto_start": true});
        body.as_object_mut()
            .unwrap()
            .extend(rules.as_object().unwrap().clone());
        self.execute(body).await["run_id"].as_str().unwrap().to_owned()
    }

    async fn waiting_kind(&self, run: &str) -> Value {
        self.act("status", run).await["waiting_for"]["kind"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_outlives_a_killed_worker_a_restarted_api_and_an_emptied_redis() {
    let mut system = Setup::workers(1).start().await;
    let prompt = script(&[write("a.txt", "x"), write("b.txt", "y"), message("after")]);
    let policy = json!({"policy": {"file_write": "ask"}});
    let run = system.begin_under(&prompt, policy).await;
    system.wait_status(&run, "waiting_user", LONG).await;
    assert_eq!(system.waiting_kind(&run).await, "approval");
    system.assert_queue_empties().await;

    system.workers[0].kill();
    system.redis.cli(&["FLUSHALL"]);
    system.api.kill();
    system.restart_api().await;
    system.add_worker().await;

    let open = system.interrupts(&run, "").await;
    assert_eq!(open.len(), 1);
    assert_eq!(open[0]["toolInput"]["filepath"], "a.txt");
    let approve = json!({"decision": "approve", "hash": open[0]["hash"]});
    let (code, answer) = system.decide(&run, &open[0], &approve).await;
    assert_eq!(
        (code, &answer["run_status"]),
        (200, &json!("executing")),
        "{answer}"
    );
    // Killed while it goes on: the step it may have begun is not asked for again.
    system.workers[1].kill();
    system.add_worker().await;
    system.wait_status(&run, "waiting_user", LONG).await;
    let (code, again) = system.decide(&run, &open[0], &approve).await;
    assert_eq!(
        (code, &again["interrupt"]["status"]),
        (200, &json!("resolved")),
        "the same word again"
    );

    let second = system.interrupts(&run, "").await;
    assert_eq!(second[0]["toolInput"]["filepath"], "b.txt");
    let reject = json!({"decision": "reject", "reason": "one is enough"});
    assert_eq!(system.decide(&run, &second[0], &reject).await.0, 200);
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.interrupts(&run, "?status=all").await.len(), 2);
    let errors = "SELECT string_agg(error_message, ',') FROM agent_steps WHERE run_id::text = $1";
    assert_eq!(
        system.text(errors, &run).await,
        "Rejected by the user: one is enough"
    );
    let written = "SELECT string_agg(tool_input ->> 'filepath', ',') FROM agent_steps
        WHERE run_id::text = $1 AND tool_name = 'file_write' AND status = 'completed'";
    assert_eq!(system.text(written, &run).await, "a.txt");
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_looked_at_first_and_an_expired_approval_lets_the_run_go_on() {
    let system = Setup::workers(1)
        .worker_env("AGENT_APPROVAL_TIMEOUT_SECONDS", "1")
        .worker_env("AGENT_DEFAULT_POLICY", "{\"file_write\":\"ask\"}")
        .start()
        .await;
    let run = system
        .begin(&script(&[write("a.txt", "x"), message("after")]))
        .await;
    system.wait_status(&run, "completed", LONG).await;
    let errors = "SELECT string_agg(error_message, ',') FROM agent_steps WHERE run_id::text = $1";
    assert_eq!(system.text(errors, &run).await, "Approval expired");
    assert_eq!(
        system.interrupts(&run, "?status=all").await[0]["status"],
        "expired"
    );
    let run = system.begin_under("list files", json!({"plan_only": true})).await;
    system.wait_status(&run, "cancelled", LONG).await;
    let why = "SELECT error_message FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.text(why, &run).await, "Plan rejected: Approval expired");
    assert_eq!(system.steps(&run, "completed").await, 0);
}
