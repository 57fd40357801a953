//! Verifying the hash chain of stored events against the head on the run row.

use super::RuntimeRun;
use super::view::{EventWindow, RuntimeEvent, load};
use crate::db::Db;
use crate::store::StoreError;
use domain::canonical::event_hash;
use domain::ids::RunId;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainReport {
    /// This many events, all linked and unchanged.
    Intact { events: u64 },
    /// The first fault: its seq and a short reason.
    Broken { seq: i64, reason: &'static str },
}

/// Verifies one run's chain; nothing when there is no such run.
pub async fn verify(db: &Db, run_id: RunId) -> Result<Option<ChainReport>, StoreError> {
    let loaded = load(db, run_id, EventWindow::default()).await?;
    Ok(loaded.map(|(run, events)| check(&run, &events)))
}

fn check(run: &RuntimeRun, events: &[RuntimeEvent]) -> ChainReport {
    let run_id = run.id.to_string();
    let mut previous: Option<&str> = None;
    for (expected, event) in (1..).zip(events) {
        let reason = if event.seq != expected {
            Some("event missing")
        } else if event.prev_hash.as_deref() != previous {
            Some("previous hash differs")
        } else {
            let hash = event_hash(&run_id, event.seq, &event.event_type, &event.payload, previous);
            (hash != event.event_hash).then_some("event hash differs")
        };
        if let Some(reason) = reason {
            return ChainReport::Broken {
                seq: expected,
                reason,
            };
        }
        previous = Some(&event.event_hash);
    }
    if events.len() as i64 != run.last_seq || previous != run.head_hash.as_deref() {
        return ChainReport::Broken {
            seq: events.len() as i64 + 1,
            reason: "chain is cut off",
        };
    }
    ChainReport::Intact {
        events: events.len() as u64,
    }
}
