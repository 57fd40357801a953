//! The person who says what became of a tool call whose worker was lost.
//!
//! Asking the world outside is only safe after the lost worker's call can no longer arrive: so the floor of the fencing
//! token is raised first, and only then is it looked whether the call has counted.

use std::sync::Arc;

use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::client::ApiClient;
use crate::counting::Counting;
use crate::history::{Entry, History};
use crate::sql::Sql;
use crate::system::System;

/// Settles unknown effects.
#[derive(Debug)]
pub struct Operator {
    client: ApiClient,
    history: Arc<History>,
    counting: Arc<Counting>,
    sql: Mutex<Sql>,
}

impl Operator {
    pub fn new(client: ApiClient, system: &System, history: &Arc<History>, counting: &Arc<Counting>) -> Self {
        Self {
            client,
            history: Arc::clone(history),
            counting: Arc::clone(counting),
            sql: Mutex::new(Sql::new(&system.database_url)),
        }
    }

    /// Answers for the step that `waiting_for` names.
    pub async fn settle(&self, run_id: &str, waiting_for: &Value, rng: &mut impl Rng) {
        let Some(step_id) = waiting_for["step_id"].as_str() else {
            self.history
                .note(format!("{run_id}: an unknown effect without step: {waiting_for}"));
            return;
        };
        let token = self.present_token(run_id).await;
        // The claim that asked is over, so every call that may still arrive carries its token or an older one.
        let counted = self.counting.raise_floor(run_id, token + 1, step_id);
        let decision = match (counted, rng.random_bool(0.5)) {
            (0, true) => "not_done",
            (0, false) => "retry",
            _ => "done",
        };
        let epoch = &waiting_for["epoch"];
        let body =
            json!({"decision": decision, "output": {"count": counted}, "note": "chaos", "epoch": epoch});
        let path = format!("/agent/run/{run_id}/effects/{step_id}");
        self.history.add(Entry::Deciding {
            run_id: run_id.to_owned(),
            step_id: step_id.to_owned(),
            decision: decision.to_owned(),
        });
        // Never repeated as it stands: after a lost answer the call may have been made again, so all of this is asked anew.
        let Some(answer) = self.client.post(rng.random_range(0..2), &path, &body, None).await else {
            return;
        };
        if answer.is_ok() {
            self.history.add(Entry::Decided {
                run_id: run_id.to_owned(),
                step_id: step_id.to_owned(),
                decision: decision.to_owned(),
            });
        } else {
            self.history
                .note(format!("{run_id}: {decision} for {step_id} refused: {answer:?}"));
        }
    }

    async fn present_token(&self, run_id: &str) -> i64 {
        let sql = "SELECT fencing_token FROM agent_runs WHERE id = $1::text::uuid";
        let rows = self.sql.lock().await.insist(sql, &[&run_id]).await;
        rows.first().map_or(0, |row| row.get(0))
    }
}
