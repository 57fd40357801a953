//! What handlers work with: small parts, each of which is a cheap clone.

use crate::auth::{Authenticator, INTERNAL_SCOPE, Principal, Tickets};
use crate::config::WriteMode;
use crate::delivery::Delivery;
use crate::error::Problem;
use crate::health::Health;
use crate::ports::{RedisBus, RunEvents};
use crate::purse::Purse;
use crate::quota::Quota;
use crate::stream::{Pace, Tails};
use domain::run::Origin;
use domain::{Budget, Clock, Ids, Redactor, RunId};
use runs::{Orchestration, Reader, RunHead};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use workspace::Workspaces;

/// Limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_body_bytes: usize,
    /// `create` enqueues unless the request says otherwise.
    pub create_autostart: bool,
    /// Retries of a new run.
    pub max_retries: u32,
    /// Of a new run, unless the request says otherwise.
    pub budget: Budget,
    pub write_mode: WriteMode,
    /// How long an address of a file is good for.
    pub download_ttl: Duration,
}

/// The runs, to be seen and changed by one caller at a time.
#[derive(Debug, Clone)]
pub struct RunStore {
    orchestration: Orchestration,
    reader: Reader,
}

impl RunStore {
    pub fn new(orchestration: Orchestration, reader: Reader) -> Self {
        Self {
            orchestration,
            reader,
        }
    }
}

/// The parts of the public surface.
#[derive(Debug, Clone)]
pub struct App {
    pub auth: Authenticator,
    pub tickets: Tickets,
    pub runs: RunStore,
    pub delivery: Delivery,
    /// To hand out; nothing is written to them.
    pub files: Workspaces,
    pub queue: Option<queue::Queue>,
    pub tails: Tails<RunEvents, RedisBus>,
    pub pace: Pace,
    pub health: Health,
    pub limits: Limits,
    pub quota: Quota,
    pub purse: Purse,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// For what is streamed without being stored.
    pub redactor: Arc<Redactor>,
    /// Fires when the process shuts down.
    pub stop: CancellationToken,
}

impl App {
    /// Reads as this caller: the database shows it its own runs and no others. Callers with scope `internal` stand for the
    /// platform; they also see runs that nobody owns.
    pub fn reader(&self, caller: &Principal) -> Reader {
        if caller.has_scope(INTERNAL_SCOPE) {
            self.runs.reader.clone()
        } else {
            self.runs.reader.of_user(&caller.user_id)
        }
    }

    /// Writes as this caller, within the same bounds as [`App::reader`].
    pub fn orchestration(&self, caller: &Principal) -> Orchestration {
        if caller.has_scope(INTERNAL_SCOPE) {
            self.runs.orchestration.clone()
        } else {
            self.runs.orchestration.of_user(&caller.user_id)
        }
    }

    /// Where a run of this caller stands; 404 for an unknown one and for somebody else's alike. A run made on the
    /// internal surface without an owner is seen by internal callers only.
    pub async fn head(&self, caller: &Principal, run: RunId) -> Result<RunHead, Problem> {
        let head = self
            .reader(caller)
            .head(run)
            .await?
            .ok_or_else(Problem::run_not_found)?;
        let seen = match &head.user_id {
            Some(owner) => *owner == caller.user_id,
            None => head.origin == Origin::Runtime && caller.has_scope(INTERNAL_SCOPE),
        };
        if seen {
            Ok(head)
        } else {
            Err(Problem::run_not_found())
        }
    }

    /// The `run` object with why it waits; 404 when there is none.
    pub async fn shown_run(&self, caller: &Principal, run: RunId) -> Result<Value, Problem> {
        let mut row = self
            .reader(caller)
            .run(run)
            .await?
            .ok_or_else(Problem::run_not_found)?;
        crate::waiting::refine(self, std::slice::from_mut(&mut row)).await;
        Ok(row)
    }

    /// Writing actions are refused while another authority writes.
    pub fn may_write(&self) -> Result<(), Problem> {
        if self.limits.write_mode.may_write() {
            return Ok(());
        }
        Err(Problem::unavailable())
    }
}
