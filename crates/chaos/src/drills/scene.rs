//! What every drill needs: a system, clients that start runs, and the questions at the end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::figure::Figures;
use super::placement;
use crate::campaign::Stage;
use crate::checker::{self, Violation};
use crate::client::ApiClient;
use crate::counting::Temper;
use crate::facts::{Facts, Lists};
use crate::history::{Entry, History, Record, Verdict};
use crate::resp::Client;
use crate::script::prompt;
use crate::sql::Sql;
use crate::system::Setup;

/// Requests under way while many runs are created.
const CREATES_AT_ONCE: usize = 8;
/// AA-68
pub const RIGHT_GOAL_SECONDS: f64 = 30.0;
const RIGHT_LIMIT: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Violations that are printed.
const MOST_PRINTED: usize = 10;

/// A system with its clients.
#[derive(Debug)]
pub struct Scene {
    pub stage: Stage,
    pub client: ApiClient,
    pub starter: Starter,
}

/// What a drill leaves behind.
#[derive(Debug)]
pub struct Remains {
    pub records: Vec<Record>,
    pub facts: Facts,
}

impl Scene {
    /// Starts stores and programs; their output goes below `dir`.
    pub async fn start(dir: &Path, adjust: impl FnOnce(Setup) -> Setup) -> Self {
        let stage = Stage::start(dir, 1, Temper::CALM, adjust).await;
        let client = ApiClient::new(&stage.system);
        let starter = Starter {
            client: client.clone(),
            history: Arc::clone(&stage.history),
            next: Arc::default(),
        };
        Self {
            stage,
            client,
            starter,
        }
    }

    pub fn sql(&self) -> Sql {
        Sql::new(&self.stage.system.database_url)
    }

    pub fn fault(&self, name: &str, target: &str, loses_redis: bool) {
        self.stage.history.add(Entry::Fault {
            name: name.to_owned(),
            target: target.to_owned(),
            loses_redis,
        });
    }

    /// The first column of the first row.
    pub async fn number(&self, sql: &str) -> i64 {
        self.sql().insist(sql, &[]).await[0].get(0)
    }

    /// Waits until this question about Postgres gives at least `least`.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub async fn until(&self, sql: &str, least: i64, limit: Duration) {
        let mut session = self.sql();
        let deadline = Instant::now() + limit;
        loop {
            let seen: i64 = session.insist(sql, &[]).await[0].get(0);
            if seen >= least {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{seen} of {least} after {limit:?}: {sql}"
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Tells how long it takes until every live run is in the right list of the Redis at this port; `begun_s` is added.
    pub async fn until_right(&self, redis_port: u16, begun_s: f64, figures: &mut Figures) {
        let recovery = placement::recovery(&self.stage.system.database_url, redis_port, RIGHT_LIMIT).await;
        let seconds = begun_s + recovery.seconds;
        figures.told(
            "most runs seen in a wrong list or in none",
            recovery.most_wrong as f64,
            "",
        );
        figures.at_most(
            RIGHT_GOAL_SECONDS,
            "until every run is in the right list",
            seconds,
            "s",
        );
    }

    /// Waits until no run is live and the lists of the Redis at this port are empty. The lists then.
    pub async fn rest(&self, redis_port: u16, limit: Duration) -> Option<Lists> {
        const LIVE: &str = "SELECT (SELECT count(*) FROM agent_outbox) + count(*) FROM agent_runs
            WHERE status IN ('queued', 'planning', 'executing') AND origin = 'agent_api'";
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.number(LIVE).await == 0 {
                let mut client = Client::connect(redis_port).await.ok()?;
                let lists = Lists::read(&mut client).await.ok()?;
                if lists.live().iter().all(|(_, jobs)| jobs.is_empty()) {
                    return Some(lists);
                }
            }
            tokio::time::sleep(4 * ASK_EVERY).await;
        }
        None
    }

    /// The value of a counter of all workers together.
    pub async fn counter(&self, name: &str) -> f64 {
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client can be built");
        let mut sum = 0.0;
        for worker in &self.stage.system.workers {
            let answer = http.get(format!("{}/metrics", worker.base())).send().await;
            let text = answer.expect("a worker answers").text().await.expect("as text");
            let of = |line: &str| line.strip_prefix(name)?.trim().parse::<f64>().ok();
            sum += text
                .lines()
                .find_map(of)
                .unwrap_or_else(|| panic!("no {name} in /metrics"));
        }
        sum
    }

    /// Ends everything and gives what is left.
    pub async fn end(self) -> Remains {
        let (records, facts) = self.stage.end().await;
        Remains { records, facts }
    }
}

impl Remains {
    /// What every drill promises: nothing acknowledged is lost, no step takes effect twice, no rule of the checker is broken.
    pub fn judge(&self, figures: &mut Figures) {
        let started = |record: &&Record| matches!(record.entry, Entry::Started { .. });
        let accepted = self.records.iter().filter(started);
        let ends = |record: &Record| record.entry.run_id().and_then(|id| self.facts.runs.get(id));
        let lost = accepted
            .clone()
            .filter(|record| ends(record).is_none_or(|run| run.status != "completed"));
        figures.told("accepted runs", accepted.clone().count() as f64, "");
        figures.none("accepted runs that are not completed", lost.count());
        figures.none("calls of a step after its first accepted call", self.repeated());
        self.check(figures);
    }

    /// Every rule of the checker.
    pub fn check(&self, figures: &mut Figures) {
        let violations = checker::check(&self.records, &self.facts);
        for Violation { rule, run_id, detail } in violations.iter().take(MOST_PRINTED) {
            eprintln!("{rule} {}: {detail}", run_id.as_deref().unwrap_or_default());
        }
        figures.none("violations found by the checker", violations.len());
    }

    /// Accepted calls beyond the first of their step.
    pub fn repeated(&self) -> usize {
        let mut calls: HashMap<&str, usize> = HashMap::new();
        for record in &self.records {
            if let Entry::Call(call) = &record.entry
                && call.verdict == Verdict::Accepted
            {
                *calls.entry(&call.step_id).or_default() += 1;
            }
        }
        calls.values().map(|count| count - 1).sum()
    }

    /// Calls that were refused because of their fencing token.
    pub fn refused(&self) -> usize {
        let refused =
            |record: &&Record| matches!(&record.entry, Entry::Call(call) if call.verdict == Verdict::Stale);
        self.records.iter().filter(refused).count()
    }
}

/// Creates and starts runs; cheap clone.
#[derive(Debug, Clone)]
pub struct Starter {
    client: ApiClient,
    history: Arc<History>,
    next: Arc<AtomicU64>,
}

impl Starter {
    /// One run of these items, started with its creation; repeated until it is answered. Its id.
    pub async fn begin(&self, items: &[Value], priority: u8) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let body =
            json!({"action": "create", "prompt": prompt(items), "auto_start": true, "priority": priority});
        let key = format!("drill-{number}");
        let answer = self
            .client
            .insist(number as usize, "/agent/execute", &body, Some(&key))
            .await;
        let run_id = answer.body["run_id"].as_str().map(str::to_owned);
        let run_id = run_id.unwrap_or_else(|| panic!("create is refused: {answer:?}"));
        self.acknowledged(&run_id);
        run_id
    }

    /// `count` runs of the same items, several at a time. Their ids.
    pub async fn begin_many(&self, count: usize, items: &[Value], priority: u8) -> Vec<String> {
        let left = Arc::new(AtomicUsize::new(count));
        let mut tasks = JoinSet::new();
        for _ in 0..CREATES_AT_ONCE {
            let (starter, left, items) = (self.clone(), Arc::clone(&left), items.to_vec());
            tasks.spawn(async move {
                let mut ids = vec![];
                let take = |left: usize| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    ids.push(starter.begin(&items, priority).await);
                }
                ids
            });
        }
        tasks.join_all().await.concat()
    }

    /// One try to create and one to start, as a client that does not repeat. `Err` with what came instead of 200.
    pub async fn try_once(&self, items: &[Value]) -> Result<(), String> {
        let api = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        let mut body = json!({"action": "create", "prompt": prompt(items)});
        for action in ["create", "start"] {
            let answer = self.client.post(api, "/agent/execute", &body, None).await;
            let Some(answer) = answer.filter(crate::client::Answer::is_ok) else {
                return Err(format!("{action}: no answer, or not 200"));
            };
            let run_id = answer.body["run_id"].as_str().unwrap_or_default().to_owned();
            body = json!({"action": "start", "run_id": run_id});
            if action == "start" {
                self.acknowledged(&run_id);
            }
        }
        Ok(())
    }

    fn acknowledged(&self, run_id: &str) {
        let run_id = run_id.to_owned();
        self.history.add(Entry::Created {
            run_id: run_id.clone(),
        });
        self.history.add(Entry::Started { run_id });
    }
}
