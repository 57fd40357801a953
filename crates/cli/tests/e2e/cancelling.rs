//! Stop and pause from any replica of the API, at any moment.

use crate::support::{LONG, SOON, Setup, System, message, processes_with, script, shell};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::{Answer, ModelServer, Process, eventually};

/// AA-32.
const ENDED: Duration = Duration::from_secs(5);

/// Two APIs over one system.
struct Pair {
    system: System,
    other: String,
    _api: Process,
}

impl Pair {
    async fn start(setup: Setup) -> Self {
        let system = setup.start().await;
        let (api, other) = system.second_api().await;
        Self {
            system,
            other,
            _api: api,
        }
    }

    /// The same command through the second API.
    async fn act_there(&self, action: &str, run: &str) -> Value {
        let answer = self
            .system
            .post_to(&self.other, &json!({"action": action, "run_id": run}))
            .await;
        assert_eq!(answer.status(), 200, "{action}");
        answer.json().await.unwrap()
    }

    /// Stops the run over the second API; the time until `gone`.
    async fn stop(&self, run: &str, gone: impl Fn() -> bool) -> Duration {
        let asked = Instant::now();
        assert_eq!(self.act_there("stop", run).await["status"], "cancelled");
        eventually(SOON, || async { gone() }).await;
        asked.elapsed()
    }
}

fn show(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!(
        "{what}: {} stops, p50 {:?}, p95 {:?}, longest {:?}",
        times.len(),
        at(50),
        at(95),
        at(100)
    );
    at(95)
}

fn stubborn(number: usize) -> (String, Value) {
    let argument = format!("64{number:02}1");
    let command = format!("trap '' TERM INT HUP; (sleep {argument} &) ; sleep {argument}; sleep {argument}");
    (argument, shell(&command))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_over_another_replica_kills_the_whole_process_group_also_when_signals_are_lost() {
    let pair = Pair::start(Setup::workers(1)).await;
    let mut times = Vec::new();
    for number in 0..20 {
        let (argument, step) = stubborn(number);
        let run = pair.system.begin(&script(&[step, message("never")])).await;
        eventually(SOON, || async { processes_with(&argument) >= 2 }).await;
        times.push(pair.stop(&run, || processes_with(&argument) == 0).await);
    }
    let p95 = show("a tool that ignores TERM", times);
    assert!(p95 < Duration::from_secs(1), "{p95:?}");
    // Nobody may publish: the renewal of the leases finds the stop.
    pair.system.redis.cli(&["ACL", "SETUSER", "default", "-publish"]);
    for number in 20..23 {
        let (argument, step) = stubborn(number);
        let run = pair.system.begin(&script(&[step, message("never")])).await;
        eventually(SOON, || async { processes_with(&argument) >= 2 }).await;
        let took = pair.stop(&run, || processes_with(&argument) == 0).await;
        println!("without signals: {took:?}");
        assert!(took < ENDED, "{took:?}");
    }
    pair.system.redis.cli(&["ACL", "SETUSER", "default", "+publish"]);
    pair.system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_over_another_replica_drops_the_models_stream() {
    let model = ModelServer::start().await;
    model.otherwise(Answer::silent());
    let setup = Setup::workers(1)
        .worker_env("LLM_PRIMARY_PROVIDER", "openai")
        .worker_env("OPENAI_BASE_URL", model.openai_url())
        .worker_env("OPENAI_API_KEY", "a-key");
    let pair = Pair::start(setup).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let run = pair.system.begin("Think about it").await;
        eventually(SOON, || async { model.open_requests() == 1 }).await;
        times.push(pair.stop(&run, || model.open_requests() == 0).await);
    }
    let p95 = show("a silent model stream", times);
    assert!(p95 < Duration::from_secs(1), "{p95:?}");
    pair.system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_over_any_replica_at_any_moment_of_a_step_repeat_and_lose_nothing() {
    const RUNS: u64 = 12;
    let pair = Pair::start(Setup::workers(1)).await;
    let steps: Vec<Value> = (0..4)
        .map(|number| shell(&format!("sleep 0.2; printf {number}")))
        .collect();
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let run = pair.system.begin(&script(&steps)).await;
        pair.system.wait_steps(&run, "running", 1).await;
        // A little later each time, so that some pauses fall onto the moment in which a step settles.
        tokio::time::sleep(Duration::from_millis(number * 25)).await;
        pair.act_there("pause", &run).await;
        runs.push(run);
    }
    pair.system.assert_queue_empties().await;
    for run in &runs {
        assert_eq!(pair.system.status(run).await, "paused");
        assert_eq!(
            pair.system.steps(run, "running").await,
            0,
            "the running step settles"
        );
        pair.system.act("resume", run).await;
    }
    for run in &runs {
        pair.system.wait_status(run, "completed", LONG).await;
        assert_eq!(pair.system.steps(run, "completed").await, 4);
        let named = pair.system.assert_whole(run).await;
        let calls = named
            .iter()
            .filter(|frame| frame.event.as_deref() == Some("tool_call"));
        assert_eq!(calls.count(), 4, "a step was repeated");
        let plannings = "SELECT count(*) FROM agent_task_logs WHERE run_id::text = $1 AND metadata->>'to_status' = 'planning'";
        assert_eq!(pair.system.count(plannings, run).await, 1);
    }
    pair.system.assert_queue_empties().await;
}
