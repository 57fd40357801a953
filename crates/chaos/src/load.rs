//! The load: clients that create runs, follow them to their end, answer, pause, resume and stop them.
//!
//! Only what an API answered is written down as acknowledged; a request without an answer is repeated with the
//! same idempotency key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::ApiClient;
use crate::counting::Counting;
use crate::history::{Entry, History};
use crate::operator::Operator;
use crate::script;
use crate::system::System;

/// Statuses after which nothing changes.
pub const FINAL: [&str; 4] = ["completed", "failed", "cancelled", "timeout"];

/// What every client shares.
#[derive(Debug)]
pub struct Load {
    client: ApiClient,
    history: Arc<History>,
    operator: Operator,
    seed: u64,
    number: AtomicU64,
    closed: AtomicBool,
}

impl Load {
    pub fn new(system: &System, history: &Arc<History>, counting: &Arc<Counting>, seed: u64) -> Arc<Self> {
        let client = ApiClient::new(system);
        Arc::new(Self {
            operator: Operator::new(client.clone(), system, history, counting),
            client,
            history: Arc::clone(history),
            seed,
            number: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })
    }

    /// From now on no client begins another run; runs under way are followed to their end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// `clients` clients, each with one run at a time, until [`Load::close`].
    pub fn start(self: &Arc<Self>, clients: usize) -> JoinSet<()> {
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let load = Arc::clone(self);
            set.spawn(async move {
                while !load.closed.load(Ordering::SeqCst) {
                    let number = load.number.fetch_add(1, Ordering::SeqCst);
                    let rng = StdRng::seed_from_u64(load.seed.wrapping_mul(1_000_003).wrapping_add(number));
                    load.one_run(number, rng).await;
                }
            });
        }
        set
    }

    async fn one_run(&self, number: u64, mut rng: StdRng) {
        let prompt = script::prompt(&script::draw(&mut rng));
        let Some(run_id) = self.begin(number, &prompt, &mut rng).await else {
            return;
        };
        self.follow(&run_id, &mut rng).await;
    }

    /// Creates and starts; the run's id once both were answered.
    async fn begin(&self, number: u64, prompt: &str, rng: &mut StdRng) -> Option<String> {
        let auto_start = rng.random_bool(0.5);
        let priority = if rng.random_bool(0.2) { 5 } else { 0 };
        let body =
            json!({"action": "create", "prompt": prompt, "auto_start": auto_start, "priority": priority});
        let key = format!("chaos-{}-{number}", self.seed);
        let api = rng.random_range(0..2);
        let answer = self.client.insist(api, "/agent/execute", &body, Some(&key)).await;
        let Some(run_id) = answer.body["run_id"].as_str().filter(|_| answer.is_ok()) else {
            self.history.note(format!("create refused: {answer:?}"));
            return None;
        };
        let run_id = run_id.to_owned();
        self.history.add(Entry::Created {
            run_id: run_id.clone(),
        });
        if !auto_start && !self.act(&run_id, "start", rng).await {
            return None;
        }
        self.history.add(Entry::Started {
            run_id: run_id.clone(),
        });
        Some(run_id)
    }

    /// True when the action was answered with 200.
    async fn act(&self, run_id: &str, action: &str, rng: &mut StdRng) -> bool {
        let api = rng.random_range(0..2);
        let answer = self.client.act(api, action, run_id).await;
        if answer.is_ok() {
            self.history.add(Entry::Acted {
                run_id: run_id.to_owned(),
                action: action.to_owned(),
            });
        }
        answer.is_ok()
    }

    async fn follow(&self, run_id: &str, rng: &mut StdRng) {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..500))).await;
            let Some(run) = self.client.run(rng.random_range(0..2), run_id).await else {
                continue;
            };
            let status = run["status"].as_str().unwrap_or_default();
            if FINAL.contains(&status) {
                return;
            }
            match status {
                "waiting_user" => self.answer(run_id, &run["waiting_for"], rng).await,
                "paused" => {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
                    self.act(run_id, "resume", rng).await;
                }
                "executing" if rng.random_bool(0.01) => {
                    self.act(run_id, "pause", rng).await;
                }
                _ if rng.random_bool(0.003) => {
                    self.act(run_id, "stop", rng).await;
                }
                _ => {}
            }
        }
    }

    async fn answer(&self, run_id: &str, waiting_for: &Value, rng: &mut StdRng) {
        if waiting_for["kind"] == "effect_unknown" {
            return self.operator.settle(run_id, waiting_for, rng).await;
        }
        let body = json!({"action": "resume", "run_id": run_id, "user_input": "yes"});
        let api = rng.random_range(0..2);
        let answer = self.client.insist(api, "/agent/execute", &body, None).await;
        if answer.is_ok() {
            self.history.add(Entry::Acted {
                run_id: run_id.to_owned(),
                action: "resume".to_owned(),
            });
        }
    }
}
