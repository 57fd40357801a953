//! Looks at the system while it runs: is every live run in exactly one list?
//!
//! Postgres is asked before and after the lists, which are read in one transaction. A run counts only when it was live both
//! times with the same `state_version` and had no outbox row: then nothing about it changed in between that could
//! excuse an entry that is missing or doubled.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::facts::Lists;
use crate::history::{Entry, History};
use crate::resp::Client;
use crate::sql::Sql;
use crate::system::System;

/// Nobody pushes jobs by hand here, so a run that is not started yet has none.
const LIVE: &str = "SELECT id::text, state_version, status FROM agent_runs r
    WHERE status IN ('created', 'queued', 'planning', 'executing') AND origin = 'agent_api'
      AND NOT EXISTS (SELECT 1 FROM agent_outbox o WHERE o.run_id = r.id)";

/// Samples until the task is aborted.
#[derive(Debug)]
pub struct Observer {
    system: Arc<System>,
    history: Arc<History>,
    sql: Sql,
    redis: Option<Client>,
    /// Job ids of dead letters that were told of.
    letters: HashSet<String>,
    /// Whole samples so far.
    samples: Arc<AtomicU64>,
}

impl Observer {
    pub fn new(system: &Arc<System>, history: &Arc<History>, samples: &Arc<AtomicU64>) -> Self {
        Self {
            sql: Sql::new(&system.database_url),
            system: Arc::clone(system),
            history: Arc::clone(history),
            redis: None,
            letters: HashSet::new(),
            samples: Arc::clone(samples),
        }
    }

    /// A sample every `every`; a store that is away gives none.
    pub async fn run(mut self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if self.sample().await.is_some() {
                self.samples.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Version and status by run.
    async fn live(&mut self) -> Option<BTreeMap<String, (i64, String)>> {
        let rows = self.sql.rows(LIVE, &[]).await.ok()?;
        Some(
            rows.iter()
                .map(|row| (row.get(0), (row.get(1), row.get(2))))
                .collect(),
        )
    }

    async fn lists(&mut self) -> Option<Lists> {
        let mut client = match self.redis.take() {
            Some(client) => client,
            None => Client::connect(self.system.redis_port).await.ok()?,
        };
        let lists = Lists::read(&mut client).await.ok()?;
        self.redis = Some(client);
        Some(lists)
    }

    async fn sample(&mut self) -> Option<()> {
        let before = self.live().await?;
        let lists = self.lists().await?;
        let after = self.live().await?;
        self.tell_dead_letters(&lists);
        for (run_id, state) in before {
            if after.get(&run_id) != Some(&state) {
                continue;
            }
            let places = lists.of_run(&run_id);
            let (version, status) = state;
            if places.len() != usize::from(status != "created") {
                let jobs: HashSet<&str> = places.iter().map(|(_, job_id)| *job_id).collect();
                self.history.add(Entry::Misplaced {
                    detail: format!("{status} (version {version}) and in {places:?}"),
                    two_jobs: places.len() > 1 && jobs.len() == places.len(),
                    run_id,
                });
            }
        }
        Some(())
    }

    fn tell_dead_letters(&mut self, lists: &Lists) {
        for letter in &lists.failed {
            if self
                .letters
                .insert(format!("{} {}", letter.job_id, letter.reason))
            {
                self.history.add(Entry::DeadLetter {
                    run_id: letter.run_id.clone(),
                    reason: letter.reason.clone(),
                });
            }
        }
    }
}
