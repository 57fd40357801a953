//! Runs that go well.

use crate::support::{LONG, SOON, Setup, USER, message, script, write};
use serde_json::{Value, json};
use std::collections::HashSet;
use testkit::{Sse, eventually};

const PLAIN: &str = "List files and create a test.txt file";

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_sentence_becomes_a_file_in_the_bucket_with_a_live_log() {
    let system = Setup::workers(1).start().await;
    let run = system.create(PLAIN).await;
    let live = Sse::connect(&system.stream_url(&run), Some(&system.token), None).await;
    let mut live = live;
    let connected = live.next(SOON).await.unwrap();
    assert_eq!(
        (connected.id, connected.json()["type"].as_str()),
        (None, Some("connected"))
    );
    assert_eq!(live.next(SOON).await.unwrap().id, Some(1));
    assert_eq!(live.next(SOON).await.unwrap().id, Some(2));
    assert_eq!(system.act("start", &run).await["status"], "queued");
    let third = live.next(SOON).await.unwrap();
    assert_eq!(third.json()["log_type"], "state_transition");
    assert_eq!(third.json()["metadata"]["to_status"], "queued");
    let rest = live.collect_until_complete(LONG).await;
    assert_eq!(rest.last().unwrap().json()["status"], "completed");

    let named = system.assert_whole(&run).await;
    let tools: Vec<Value> = named
        .iter()
        .filter(|frame| frame.event.as_deref() == Some("tool_call"))
        .map(|frame| frame.json()["tool_name"].clone())
        .collect();
    assert_eq!(tools, ["file_list", "file_write"]);
    let key = format!("users/{USER}/runs/{run}/test.txt");
    assert!(system.object(&key).await.is_some(), "{key} is not in the bucket");
    system.assert_queue_empties().await;
    the_rows_agree(&system, &run, &key).await;
}

/// What psql shows is what HTTP shows.
async fn the_rows_agree(system: &crate::support::System, run: &str, key: &str) {
    let sql =
        "SELECT status, plan::text, completed_steps, failed_steps, total_steps, retry_count, job_id::text
               FROM agent_runs WHERE id::text = $1";
    let row = &system.sql(sql, run).await[0];
    assert_eq!(row.get::<_, String>(0), "completed");
    assert_eq!(
        (
            row.get::<_, i32>(2),
            row.get::<_, i32>(3),
            row.get::<_, i32>(4),
            row.get::<_, i32>(5)
        ),
        (2, 0, 2, 0)
    );
    let plan: Value = serde_json::from_str(row.get(1)).unwrap();
    let answer = system.act("status", run).await;
    assert_eq!(answer["plan"], plan);
    assert_eq!(answer["progress"]["percentage"], 100.0);
    let artifacts = system
        .sql(
            "SELECT storage_key, file_path, file_size FROM agent_artifacts WHERE run_id::text = $1",
            run,
        )
        .await;
    assert_eq!(artifacts.len(), 1);
    assert_eq!(artifacts[0].get::<_, String>(0), key);
    assert_eq!(artifacts[0].get::<_, String>(1), "test.txt");
    let size = system.object(key).await.unwrap().len() as i64;
    assert_eq!(artifacts[0].get::<_, i64>(2), size);
    let prompts = "SELECT count(*) FROM agent_messages WHERE run_id::text = $1 AND role = 'user'";
    assert_eq!(system.count(prompts, run).await, 1);
    assert_eq!(system.steps(run, "completed").await, 2);
    let body = json!({"run_id": run, "include_steps": true, "include_artifacts": true,
                      "include_messages": true, "include_logs": true});
    let request = system.client.post(format!("{}/agent/status", system.base));
    let answer = request
        .bearer_auth(&system.token)
        .json(&body)
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["run"]["status"], "completed");
    assert_eq!(answer["steps"].as_array().unwrap().len(), 2);
    assert_eq!(answer["artifacts"].as_array().unwrap().len(), 1);
    assert!(answer["run"].get("lease_owner").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_starts_at_once_lead_to_one_execution() {
    let system = Setup::workers(2).start().await;
    // Long enough that the last of the fifty finds the run at work: a start after its end is refused.
    let slow = json!({"type": "sleep", "ms": 5000});
    let run = system
        .create(&script(&[slow, message("one"), message("two")]))
        .await;
    let starts = (0..50).map(|_| system.act("start", &run));
    let answers = futures::future::join_all(starts).await;
    for answer in &answers {
        let text = answer["message"].as_str().unwrap();
        let queued = text == "Agent execution queued for processing";
        assert!(queued || text.starts_with("Run is already "), "{answer}");
    }
    let queued = answers
        .iter()
        .filter(|answer| answer["message"] == "Agent execution queued for processing")
        .count();
    assert_eq!(queued, 1);
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 2);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_execute_two_hundred_runs_once_each() {
    let system = Setup::workers(2).start().await;
    let mut runs = Vec::new();
    for number in 0..200 {
        let prompt = script(&[
            message(&format!("first of {number}")),
            json!({"type": "sleep", "ms": 20}),
            message("second"),
        ]);
        let body = json!({"action": "create", "prompt": prompt, "auto_start": true, "priority": number % 3});
        let answer = system.execute(body).await;
        assert_eq!(answer["message"], "Agent run created and queued for processing");
        runs.push(answer["run_id"].as_str().unwrap().to_owned());
    }
    let processing = || async { !system.jobs("processing").is_empty() };
    eventually(SOON, processing).await;
    for job in system.jobs("processing") {
        assert!(runs.iter().any(|run| job["run_id"] == run.as_str()), "{job}");
        assert_eq!((&job["attempt"], &job["retry_count"]), (&json!(1), &json!(0)));
        assert!(
            job["job_id"].is_string() && job["enqueued_at"].is_string() && job["traceparent"].is_string()
        );
    }
    let done = "SELECT count(*) FROM agent_runs WHERE status = 'completed'";
    eventually(LONG, || async { system.count(done, "").await == 200 }).await;
    let steps = "SELECT run_id::text, count(*), count(DISTINCT step_number), max(retry_count), count(*) FILTER (WHERE status = 'completed')
                 FROM agent_steps GROUP BY 1";
    let rows = system.sql(steps, "").await;
    assert_eq!(rows.len(), 200);
    for row in rows {
        let figures = (
            row.get::<_, i64>(1),
            row.get::<_, i64>(2),
            row.get::<_, i32>(3),
            row.get::<_, i64>(4),
        );
        assert_eq!(figures, (2, 2, 0, 2), "{}", row.get::<_, String>(0));
    }
    let claimed_twice = "SELECT count(*) FROM agent_runs WHERE fencing_token <> 1 OR retry_count <> 0";
    assert_eq!(system.count(claimed_twice, "").await, 0);
    let gaps = "SELECT count(*) FROM (SELECT run_id FROM agent_task_logs GROUP BY run_id
                HAVING count(*) <> max(seq) OR count(*) FILTER (WHERE log_type = 'complete') <> 1) AS bad";
    assert_eq!(system.count(gaps, "").await, 0);
    system.assert_queue_empties().await;
    let owners = owners_in_logs(&system);
    assert_eq!(owners, 2, "both workers should have worked");
}

/// How many workers say that they claimed a run.
fn owners_in_logs(system: &crate::support::System) -> usize {
    let claimed = |worker: &&testkit::Process| worker.stdout().contains("run claimed");
    let pids: HashSet<u32> = system
        .workers
        .iter()
        .filter(claimed)
        .map(testkit::Process::pid)
        .collect();
    pids.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_step_are_read_by_the_next_and_stay_in_the_bucket() {
    let system = Setup::workers(1).start().await;
    let shell = crate::support::shell("cat a.txt && printf made > b.txt && rm a.txt");
    let run = system.begin(&script(&[write("a.txt", "hällo"), shell])).await;
    system.wait_status(&run, "completed", LONG).await;
    let sql =
        "SELECT string_agg((tool_output->'output'->>'stdout'), '') FROM agent_steps WHERE run_id::text = $1";
    assert_eq!(system.text(sql, &run).await, "hällo");
    let key = |name: &str| format!("users/{USER}/runs/{run}/{name}");
    assert_eq!(system.object(&key("b.txt")).await.unwrap(), b"made");
    assert!(system.object(&key("a.txt")).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_gives_the_first_answer_again() {
    let system = Setup::default().start().await;
    let send = |body: Value| {
        let sent = system
            .client
            .post(format!("{}/agent/execute", system.base))
            .bearer_auth(&system.token);
        sent.header("Idempotency-Key", "key-1").json(&body).send()
    };
    let body = json!({"action": "create", "prompt": "x"});
    let first: Value = send(body.clone()).await.unwrap().json().await.unwrap();
    let (one, two) = tokio::join!(send(body.clone()), send(body));
    assert_eq!(one.unwrap().json::<Value>().await.unwrap(), first);
    assert_eq!(two.unwrap().json::<Value>().await.unwrap(), first);
    let other = send(json!({"action": "create", "prompt": "y"})).await.unwrap();
    assert_eq!(other.status(), 409);
    assert_eq!(
        other.json::<Value>().await.unwrap()["code"],
        "idempotency_conflict"
    );
    assert_eq!(system.count("SELECT count(*) FROM agent_runs", "").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_lines_without_tokens_keys_or_prompts() {
    let system = Setup::workers(1).start().await;
    let words = "zebra crossing at midnight";
    let ask = json!({"type": "request_input", "message": words});
    let run = system
        .begin(&script(&[message(words), write("a.txt", words), ask]))
        .await;
    system.wait_status(&run, "waiting_user", LONG).await;
    system
        .execute(json!({"action": "resume", "run_id": run, "user_input": words}))
        .await;
    system.wait_status(&run, "completed", LONG).await;
    let url = format!("{}?token={}", system.stream_url(&run), system.token);
    assert_eq!(system.code(&url).await, Some(401));
    let secrets = [
        words,
        &system.token,
        crate::support::SECRET,
        system.s3.secret_key(),
    ];
    let mut events = HashSet::new();
    for process in [&system.api, &system.workers[0]] {
        let (out, err) = (process.stdout(), process.stderr());
        assert_eq!(err, "");
        for secret in secrets {
            assert!(!out.contains(secret), "{secret} is in a log");
        }
        for line in out.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(
                line["timestamp"].is_string() && line["level"].is_string(),
                "{line}"
            );
            events.insert(line["event"].as_str().unwrap().to_owned());
        }
    }
    assert!(
        events.contains("request_started") && events.contains("request_completed"),
        "{events:?}"
    );
}
