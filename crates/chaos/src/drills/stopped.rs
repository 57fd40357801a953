//! SIGSTOP of workers inside steps of all three effect classes, for much longer than a lease, then SIGCONT: what they
//! still try to do must be refused everywhere.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::task::AbortHandle;

use super::Place;
use super::figure::Figures;
use super::holders::holders;
use super::scene::Scene;
use crate::operator::Operator;
use crate::script::count;
use crate::sql::Sql;

const EFFECTS: [&str; 3] = ["pure", "idempotent", "at_most_once"];
const LIMIT: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(300);

const STALE: &str = "SELECT count(*) FROM agent_steps WHERE settled_epoch < claimed_epoch";
const FALLS: &str = "SELECT count(*) FROM (SELECT settled_epoch, lag(settled_epoch) OVER
            (PARTITION BY run_id ORDER BY completed_at) AS before FROM agent_steps WHERE settled_epoch IS NOT NULL) AS s
        WHERE settled_epoch < before";
const AFTER: &str = "SELECT count(*) FROM agent_task_logs c JOIN agent_task_logs l USING (run_id)
        WHERE c.log_type = 'complete' AND l.seq > c.seq";

/// How large the drill is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub rounds: usize,
    pub workers: usize,
    /// Workers stopped in each round.
    pub victims: usize,
    pub stopped: Duration,
    /// How long the step takes inside which they are stopped: longer than until another worker has called it again.
    pub step_ms: u64,
}

impl Size {
    pub const LONG: Self = Self {
        rounds: 4,
        workers: 8,
        victims: 4,
        stopped: Duration::from_mins(1),
        step_ms: 20_000,
    };
    pub const SHORT: Self = Self {
        rounds: 1,
        workers: 2,
        victims: 1,
        stopped: Duration::from_secs(14),
        step_ms: 12_000,
    };
}

/// Runs the drill.
pub async fn run(place: &Place, size: Size) -> Figures {
    let mut figures = Figures::of("stopped");
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup
            .size(1, size.workers)
            .env("WORKER_CONCURRENCY", "12")
            .env("POOL_SIZE", "4")
    })
    .await;
    let operator = answer_for_unknown_effects(&scene);
    let mut stopped = 0;
    for number in 1..=size.rounds {
        stopped += round(&scene, size).await;
        eprintln!("round {number} of {}", size.rounds);
    }
    operator.abort();
    figures.told("workers stopped inside steps", stopped as f64, "");
    let taken = scene
        .number("SELECT count(*) FROM agent_runs WHERE fencing_token > 1")
        .await;
    figures.at_least(stopped, "runs taken over", taken as usize);
    figures.none(
        "steps settled by an older claim than the last",
        scene.number(STALE).await as usize,
    );
    figures.none(
        "epochs of settled steps that fall",
        scene.number(FALLS).await as usize,
    );
    figures.none("events after complete", scene.number(AFTER).await as usize);
    scene.rest(scene.stage.system.redis_port, LIMIT).await;
    let remains = scene.end().await;
    let live = |status: &str| matches!(status, "queued" | "planning" | "executing" | "waiting_user");
    let open = remains.facts.runs.values().filter(|run| live(&run.status));
    figures.none("runs that did not come to their end", open.count());
    figures.told(
        "calls with an old fencing token, refused",
        remains.refused() as f64,
        "",
    );
    remains.check(&mut figures);
    figures
}

/// The number of stopped workers.
async fn round(scene: &Scene, size: Size) -> usize {
    const RUNNING: &str = "SELECT count(*) FROM agent_steps s JOIN agent_runs r ON r.id = s.run_id
        WHERE s.status = 'running' AND r.status = 'executing'";
    let mut runs = vec![];
    for effect in EFFECTS {
        // The effect comes at the beginning of the call, or at its end, when the worker has long been given up.
        for late in [false, true] {
            let items = [
                count(effect, size.step_ms, late),
                count(effect, 0, false),
                count("pure", 0, false),
            ];
            runs.extend(scene.starter.begin_many(size.victims, &items, 0).await);
        }
    }
    scene.until(RUNNING, runs.len() as i64, LIMIT).await;
    let workers = &scene.stage.system.workers;
    let mut stopped = vec![];
    for (index, _) in holders(scene).await.into_iter().take(size.victims) {
        scene.fault("worker_stop", &workers[index].name, false);
        workers[index].pause();
        stopped.push(index);
    }
    tokio::time::sleep(size.stopped).await;
    for index in &stopped {
        workers[*index].unpause();
    }
    let ended = format!(
        "SELECT count(*) FROM agent_runs WHERE id = ANY('{{{}}}'::uuid[]) AND completed_at IS NOT NULL",
        runs.join(",")
    );
    scene.until(&ended, runs.len() as i64, 2 * LIMIT).await;
    stopped.len()
}

/// An operator who settles every unknown effect until the task is aborted.
fn answer_for_unknown_effects(scene: &Scene) -> AbortHandle {
    const UNKNOWN: &str = "SELECT id::text, waiting_for::text FROM agent_runs
        WHERE status = 'waiting_user' AND waiting_for->>'kind' = 'effect_unknown'";
    let stage = &scene.stage;
    let operator = Operator::new(
        scene.client.clone(),
        &stage.system,
        &stage.history,
        &stage.counting,
    );
    let system = Arc::clone(&stage.system);
    let task = async move {
        let mut sql = Sql::new(&system.database_url);
        let mut rng = StdRng::seed_from_u64(11);
        loop {
            for row in sql.insist(UNKNOWN, &[]).await {
                let waiting_for: Value = serde_json::from_str(row.get(1)).expect("a JSON column");
                operator.settle(row.get(0), &waiting_for, &mut rng).await;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::spawn(task).abort_handle()
}
