//! Verifying the hash chain of stored events against the head and the last seq of the run row.

use super::RuntimeRun;
use super::view::{Pages, RuntimeEvent, load_run};
use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::canonical::event_hash;
use domain::ids::RunId;

const RUN_IDS: &str = "SELECT id FROM agent_runs WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2";
const BEYOND: &str = "SELECT 1 FROM runtime.run_events WHERE run_id = $1 AND seq > $2 LIMIT 1";

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainReport {
    /// This many events, all linked and unchanged.
    Intact { events: u64 },
    /// The first fault: its seq and a short reason.
    Broken { seq: i64, reason: &'static str },
}

/// Ids of all runs, in order, `limit` at a time.
pub async fn run_ids(db: &Db, after: Option<RunId>, limit: i64) -> Result<Vec<RunId>, StoreError> {
    let params = params![after.map(|run| run.0), limit];
    let rows = query(db, Statement::new(RUN_IDS, params)).await?;
    rows.iter().map(|row| Ok(RunId(row.try_get(0)?))).collect()
}

/// Verifies one run's chain page by page, while others may write; nothing when there is no such run.
pub async fn verify(db: &Db, run_id: RunId) -> Result<Option<ChainReport>, StoreError> {
    let Some(run) = load_run(db, run_id).await? else {
        return Ok(None);
    };
    let mut pages = Pages::of(db, &run);
    let mut walk = Walk::new(run_id);
    loop {
        let events = pages.next().await?;
        if events.is_empty() {
            break;
        }
        for event in &events {
            if let Some(broken) = walk.step(event) {
                return Ok(Some(broken));
            }
        }
    }
    if let Some(broken) = walk.end(&run) {
        return Ok(Some(broken));
    }
    if has_more(db, &run).await? {
        let seq = run.last_seq + 1;
        let reason = "event beyond the head";
        return Ok(Some(ChainReport::Broken { seq, reason }));
    }
    let events = run.last_seq as u64;
    Ok(Some(ChainReport::Intact { events }))
}

/// An event beyond the row's last seq, and the row has not moved since: both were never written together.
async fn has_more(db: &Db, run: &RuntimeRun) -> Result<bool, StoreError> {
    let beyond = query(db, Statement::new(BEYOND, params![run.id.0, run.last_seq])).await?;
    if beyond.is_empty() {
        return Ok(false);
    }
    let now = load_run(db, run.id).await?;
    Ok(now.is_some_and(|now| now.last_seq == run.last_seq))
}

/// The chain as far as it was followed.
struct Walk {
    run_id: String,
    seq: i64,
    head: Option<String>,
}

impl Walk {
    fn new(run_id: RunId) -> Self {
        Self {
            run_id: run_id.to_string(),
            seq: 0,
            head: None,
        }
    }

    fn step(&mut self, event: &RuntimeEvent) -> Option<ChainReport> {
        self.seq += 1;
        let head = self.head.as_deref();
        let reason = if event.seq != self.seq {
            Some("event missing")
        } else if event.prev_hash.as_deref() != head {
            Some("previous hash differs")
        } else {
            let hash = event_hash(&self.run_id, event.seq, &event.event_type, &event.payload, head);
            (hash != event.event_hash).then_some("event hash differs")
        };
        self.head = Some(event.event_hash.clone());
        let seq = self.seq;
        reason.map(|reason| ChainReport::Broken { seq, reason })
    }

    fn end(&self, run: &RuntimeRun) -> Option<ChainReport> {
        if self.seq < run.last_seq {
            let (seq, reason) = (self.seq + 1, "chain is cut off");
            return Some(ChainReport::Broken { seq, reason });
        }
        let (seq, reason) = (self.seq, "head hash differs");
        (self.head != run.head_hash).then_some(ChainReport::Broken { seq, reason })
    }
}
