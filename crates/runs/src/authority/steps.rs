//! Steps: started, started again, settled once, cancelled with the run.

use super::apply::turn_key;
use super::batch::Batch;
use crate::db::tx::{Statement, params};
use domain::change::{NewArtifact, NewStep};
use domain::clock::wire_time;
use domain::event::NewEvent;
use domain::ids::StepId;
use domain::run::StepStatus;
use domain::tool::{ArtifactRef, ToolResult, files_of_step};
use domain::waiting::{is_sandbox_capacity, sandbox_capacity};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A step without a result yet.
#[derive(Debug, Clone)]
pub(crate) struct OpenStep {
    pub(crate) tool_name: String,
    pub(crate) started_at: Option<Timestamp>,
    /// Its wait for room is in the log already.
    pub(crate) waited: bool,
}

/// The first step of a turn tells what the turn's model calls used, tries that failed included; so the steps of a run add up to
/// what its turns cost. Without the price of one of them there is no cost.
const INSERT_STEP: &str = "INSERT INTO agent_steps
        (id, run_id, step_number, phase_number, turn, action, tool_name, tool_input, effect, status,
         idempotency_key, created_at, started_at, claimed_epoch, metadata)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'running', $10, $11, $11, $12, coalesce((
        SELECT jsonb_build_object('model', jsonb_build_object(
                   'prompt_tokens', sum(c.input_tokens), 'completion_tokens', sum(c.output_tokens),
                   'cost_usd', CASE WHEN bool_and(c.cost_usd IS NOT NULL) THEN sum(c.cost_usd) END))
          FROM token_records c
         WHERE c.run_id = $2 AND (c.idempotency_key = $13 OR starts_with(c.idempotency_key, $13 || ':'))
        HAVING count(*) > 0
           AND NOT EXISTS (SELECT FROM agent_steps s WHERE s.run_id = $2 AND s.turn = $5)), '{}'))";

const RESTART_STEP: &str = "UPDATE agent_steps
    SET retry_count = retry_count + 1, status = 'running', started_at = $2, claimed_epoch = $3,
        metadata = metadata - 'waiting'
    WHERE id = $1 AND status IN ('pending', 'running')";

const RESET_STEP: &str = "UPDATE agent_steps SET status = 'pending', metadata = metadata - 'outcome'
    WHERE id = $1 AND status IN ('pending', 'running')";

const STEP_WAITS: &str = "UPDATE agent_steps
    SET status = 'pending', metadata = metadata || '{\"waiting\": \"quota\", \"waited\": true}'
    WHERE id = $1 AND status IN ('pending', 'running')";

const ADMIT_STEP: &str = "UPDATE agent_steps
    SET status = 'running', started_at = $2, claimed_epoch = $3, metadata = metadata - 'waiting'
    WHERE id = $1 AND status IN ('pending', 'running')";

const MARK_UNKNOWN: &str = "UPDATE agent_steps SET metadata = metadata || '{\"outcome\": \"unknown\"}'
    WHERE id = $1 AND status IN ('pending', 'running')";

const SETTLE_STEP: &str = "UPDATE agent_steps
    SET status = $2, tool_output = $3, credits_used = $4::float8::numeric, error_message = $5,
        completed_at = $6, duration_ms = $7, settled_epoch = $8, metadata = metadata - 'outcome' - 'waiting'
    WHERE id = $1";

const NOTE_OF_STEP: &str = "UPDATE agent_steps SET metadata = metadata || $2::jsonb WHERE id = $1";

/// The result as a message; the provider's call id is looked up in the turn that asked for the step.
const INSERT_RESULT_MESSAGE: &str = "INSERT INTO agent_messages
        (id, run_id, step_id, role, content, tool_call_id, tool_name, created_at)
    SELECT $1, s.run_id, s.id, 'tool', $3,
           coalesce((SELECT t.actions -> s.action ->> 'call_id' FROM agent_turns t
                      WHERE t.run_id = s.run_id AND t.turn = s.turn), s.id::text),
           s.tool_name, $4
      FROM agent_steps s WHERE s.id = $2";

const INSERT_ARTIFACT: &str = "INSERT INTO agent_artifacts
        (id, run_id, step_id, user_id, filename, file_path, file_type, file_size, content_hash,
         storage_bucket, storage_key, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

const CHARGE: &str = "WITH charged AS (
        UPDATE credit_balances SET available_credits = available_credits - $3::float8::numeric, updated_at = $4
         WHERE user_id = $1 RETURNING available_credits)
    INSERT INTO credit_transactions (id, user_id, run_id, step_id, amount, balance_after, created_at)
    SELECT $5, $1, $2, $6, -($3::float8::numeric), available_credits, $4 FROM charged
    ON CONFLICT (step_id) DO NOTHING";

impl Batch<'_> {
    pub(super) fn step_started(&mut self, step: NewStep) {
        let run_id = self.run.state.id;
        self.run.counters.total_steps += 1;
        let at = self.push(NewEvent::tool_call(step.id, &step.tool_name, &step.tool_input));
        let key = format!("{run_id}:{}:{}", step.turn, step.action);
        let calls = turn_key(run_id, step.turn);
        let open = OpenStep {
            tool_name: step.tool_name.clone(),
            started_at: Some(at),
            waited: false,
        };
        self.open_steps.insert(step.id, open);
        let params = params![
            step.id.0,
            run_id.0,
            self.run.counters.total_steps,
            step.phase_number as i32,
            step.turn as i32,
            step.action as i32,
            step.tool_name,
            step.tool_input,
            step.effect.as_str(),
            key,
            at,
            self.writer_epoch,
            calls
        ];
        self.writes.push(Statement::new(INSERT_STEP, params));
    }

    pub(super) fn step_restarted(&mut self, step_id: StepId) {
        if self.open_steps.contains_key(&step_id) {
            let at = self.tick();
            self.writes.push(Statement::new(
                RESTART_STEP,
                params![step_id.0, at, self.writer_epoch],
            ));
        }
    }

    /// It may be started again without asking anybody.
    pub(super) fn step_reset(&mut self, step_id: StepId) {
        if self.open_steps.contains_key(&step_id) {
            self.writes.push(Statement::new(RESET_STEP, params![step_id.0]));
        }
    }

    /// Told once per step, however often it waits and whoever has it.
    pub(super) fn step_waiting(&mut self, step_id: StepId) {
        let Some(step) = self.open_steps.get_mut(&step_id) else {
            return;
        };
        let is_news = !std::mem::replace(&mut step.waited, true);
        let at = if is_news {
            self.push(NewEvent::waiting_for_capacity(step_id))
        } else {
            self.tick()
        };
        self.run.waiting_for = Some(sandbox_capacity(step_id, &wire_time(at)));
        self.writes.push(Statement::new(STEP_WAITS, params![step_id.0]));
    }

    pub(super) fn step_admitted(&mut self, step_id: StepId) {
        if !self.open_steps.contains_key(&step_id) {
            return;
        }
        let at = self.tick();
        self.no_longer_waiting();
        let params = params![step_id.0, at, self.writer_epoch];
        self.writes.push(Statement::new(ADMIT_STEP, params));
    }

    fn no_longer_waiting(&mut self) {
        if self.run.waiting_for.as_ref().is_some_and(is_sandbox_capacity) {
            self.run.waiting_for = None;
        }
    }

    pub(super) fn step_unknown(&mut self, step_id: StepId) {
        if self.open_steps.contains_key(&step_id) {
            self.writes.push(Statement::new(MARK_UNKNOWN, params![step_id.0]));
        }
    }

    /// A step settles once; a second result (two workers after a take-over) is dropped without an event.
    pub(super) fn step_settled(
        &mut self,
        step_id: StepId,
        status: StepStatus,
        result: &ToolResult,
        duration_ms: i64,
    ) {
        let Some(step) = self.open_steps.remove(&step_id) else {
            return;
        };
        self.no_longer_waiting();
        self.run.state.crash_count = 0;
        self.run.state.retry_count = 0;
        self.run.counters.attempt = 1;
        match status {
            StepStatus::Completed => self.run.counters.completed_steps += 1,
            StepStatus::Failed => self.run.counters.failed_steps += 1,
            StepStatus::Pending | StepStatus::Running | StepStatus::Skipped | StepStatus::Cancelled => {}
        }
        self.run.counters.credits += result.credits_used;
        let at = self.settle_row(step_id, &step, (status, duration_ms), result);
        let files = || json!({"files": files_of_step(&result.changes)});
        let files = (!result.changes.is_empty()).then(files);
        let refused = result.refused.then(|| json!({"refused": true}));
        for note in files.into_iter().chain(refused) {
            self.writes
                .push(Statement::new(NOTE_OF_STEP, params![step_id.0, note]));
        }
        self.charge(step_id, result.credits_used, at);
        for artifact in &result.artifacts {
            self.artifact(step_id, artifact);
        }
    }

    pub(super) fn cancel_open_steps(&mut self) {
        let mut open: Vec<StepId> = self.open_steps.keys().copied().collect();
        open.sort();
        for step_id in open {
            let Some(step) = self.open_steps.remove(&step_id) else {
                continue;
            };
            let since = step.started_at.unwrap_or(self.context.now);
            let duration_ms = self.context.now.duration_since(since).as_millis().max(0) as i64;
            self.settle_row(
                step_id,
                &step,
                (StepStatus::Cancelled, duration_ms),
                &ToolResult::cancelled(),
            );
        }
    }

    /// The step's row, its result message and its `tool_result` event; gives the event's time.
    fn settle_row(
        &mut self,
        step_id: StepId,
        step: &OpenStep,
        (status, duration_ms): (StepStatus, i64),
        result: &ToolResult,
    ) -> Timestamp {
        // Before the event cuts a long output: a secret that lies across the cut would not be found after it.
        let mut shown = result.clone();
        self.context.redactor.value(&mut shown.output);
        let event = NewEvent::tool_result(step_id, &step.tool_name, &shown, duration_ms);
        let at = self.push(event);
        let output = serde_json::to_value(result).unwrap_or(Value::Null);
        let (credits, error) = (result.credits_used, result.error.clone());
        self.writes.push(Statement::new(
            SETTLE_STEP,
            params![
                step_id.0,
                status.as_str(),
                output,
                credits,
                error,
                at,
                duration_ms,
                self.writer_epoch
            ],
        ));
        let content = match (&result.error, result.success) {
            (Some(error), false) => error.clone(),
            _ => result.output.to_string(),
        };
        let message_id = self.context.ids.uuid();
        self.writes.push(Statement::new(
            INSERT_RESULT_MESSAGE,
            params![message_id, step_id.0, content, at],
        ));
        at
    }

    fn charge(&mut self, step_id: StepId, credits: f64, at: Timestamp) {
        let Some(user) = self.run.state.user_id.clone() else {
            return;
        };
        if self.context.credits_enforced && credits > 0.0 {
            let id = self.context.ids.uuid();
            let params = params![user.0, self.run.state.id.0, credits, at, id, step_id.0];
            self.writes.push(Statement::new(CHARGE, params));
        }
    }

    fn artifact(&mut self, step_id: StepId, made: &ArtifactRef) {
        let filename = made.file_path.rsplit('/').next().unwrap_or_default().to_owned();
        let artifact = NewArtifact {
            id: self.context.ids.uuid(),
            filename,
            file_path: made.file_path.clone(),
            file_type: made.mime_type.clone(),
            file_size: made.file_size,
            content_hash: made.content_hash.clone(),
            storage_bucket: made.storage_bucket.clone(),
            storage_key: made.storage_key.clone(),
        };
        let at = self.push(NewEvent::output(&artifact));
        let params = params![
            artifact.id,
            self.run.state.id.0,
            step_id.0,
            self.run.state.user_id.as_ref().map(|user| user.0.clone()),
            artifact.filename,
            artifact.file_path,
            artifact.file_type,
            artifact.file_size,
            artifact.content_hash,
            artifact.storage_bucket,
            artifact.storage_key,
            at
        ];
        self.writes.push(Statement::new(INSERT_ARTIFACT, params));
    }
}
