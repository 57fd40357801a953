//! Typed changes become rows and events. See the table in `domain::change`.

use super::batch::Batch;
use crate::db::tx::{Param, Statement, params};
use domain::action::{Turn, Usage};
use domain::change::{Change, NewMessage, RunError};
use domain::event::{LogType, NewEvent};
use domain::ids::{MessageId, RunId};
use domain::plan::{Plan, PlanDifference};
use domain::status::RunStatus;
use domain::storable::Storable as _;
use jiff::Timestamp;
use serde_json::{Value, json};

const UPDATE_PLAN: &str = "UPDATE agent_runs SET plan = $2 WHERE id = $1";

const WORKSPACE_COPIED: &str =
    "UPDATE agent_runs SET metadata = metadata || '{\"workspace_copied\": true}' WHERE id = $1";

const INSERT_TURN: &str = "INSERT INTO agent_turns
        (run_id, turn, raw, actions, fault, model, provider, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

const INSERT_TOKENS: &str = "INSERT INTO token_records
        (id, run_id, idempotency_key, model, provider, input_tokens, output_tokens, is_estimated, created_at,
         user_id, cached_tokens, reasoning_tokens, cost_usd)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::bigint::numeric / 1000000)";

const SET_BUDGET: &str =
    "UPDATE agent_runs SET metadata = metadata || jsonb_build_object('budget', $2::jsonb) WHERE id = $1";

const INSERT_MESSAGE: &str = "INSERT INTO agent_messages (id, run_id, step_id, role, content, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)";

/// One model call to record.
pub(crate) struct ModelCall {
    pub(crate) turn: Turn,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) usage: Usage,
}

impl Batch<'_> {
    /// Applies one change to the row in memory and notes its rows and events.
    pub(crate) fn apply(&mut self, change: Change) {
        match change.storable() {
            Change::Log(event) => self.log(event),
            Change::Status { to, error } => self.status(to, error),
            Change::PlanStored { plan } => self.plan(&plan),
            Change::PlanRevised {
                plan,
                reason,
                difference,
            } => self.plan_revised(&plan, &reason, &difference),
            Change::TurnStored {
                turn,
                model,
                provider,
                usage,
            } => {
                self.turn(ModelCall {
                    turn,
                    model,
                    provider,
                    usage,
                });
            }
            Change::CallBilled {
                key,
                model,
                provider,
                usage,
            } => {
                let at = self.tick();
                self.token_record(&key, (model, provider), usage, at);
            }
            Change::BudgetSet(budget) => {
                self.write(SET_BUDGET, params![self.run.state.id.0, budget.to_value()]);
            }
            Change::MessageAdded(message) => self.message(message),
            Change::InputRequested { message_id, question } => self.input_requested(message_id, question),
            Change::StepStarted(step) => self.step_started(step),
            Change::StepRestarted { step_id } => self.step_restarted(step_id),
            Change::StepWaiting { step_id } => self.step_waiting(step_id),
            Change::StepAdmitted { step_id } => self.step_admitted(step_id),
            Change::StepSettled {
                step_id,
                status,
                result,
                duration_ms,
            } => self.step_settled(step_id, status, &result, duration_ms),
            Change::StepReset { step_id } => self.step_reset(step_id),
            Change::StepUnknown { step_id } => self.step_unknown(step_id),
            Change::CancelRunningSteps => self.cancel_open_steps(),
            Change::PhaseAdvanced { from, to } => self.phase_advanced(from, to),
            Change::InterruptOpened(interrupt) => self.interrupt_opened(*interrupt),
            Change::InterruptClosed {
                id,
                status,
                decision,
                response,
            } => self.interrupt_closed(id, status, decision, response),
            Change::Waiting(what) => self.run.waiting_for = what,
            Change::WorkspaceCopied => self.write(WORKSPACE_COPIED, params![self.run.state.id.0]),
        }
    }

    fn write(&mut self, sql: &'static str, params: Vec<Param>) {
        self.writes.push(Statement::new(sql, params));
    }

    fn input_requested(&mut self, message_id: MessageId, question: String) {
        let at = self.push(NewEvent::user_input_required(message_id, &question));
        let message = NewMessage {
            id: message_id,
            role: "assistant",
            content: question,
            step_id: None,
            silent: true,
        };
        self.message_row(&message, at);
    }

    fn phase_advanced(&mut self, from: u32, to: u32) {
        self.run.state.current_phase = to;
        self.push(NewEvent::phase_advance(from, to, self.run.state.total_phases));
    }

    fn log(&mut self, event: NewEvent) {
        if event.metadata.get("event") == Some(&json!("cancel_requested")) {
            self.run.state.cancel_requested = true;
        }
        let at = self.push(event);
        if self.run.state.cancel_requested && self.run.times.cancel_requested_at.is_none() {
            self.run.times.cancel_requested_at = Some(at);
        }
    }

    fn status(&mut self, to: RunStatus, error: Option<RunError>) {
        let state = &mut self.run.state;
        let from = std::mem::replace(&mut state.status, to);
        self.run.counters.state_version += 1;
        if let Some(error) = error {
            self.run.error_code = Some(error.code);
            self.run.error_message = Some(error.message);
        } else if to.is_final() {
            // A text left by an attempt that was repeated is not why the run ended.
            self.run.error_message = None;
        }
        let (phase, phases) = (self.run.state.current_phase, self.run.state.total_phases);
        let at = self.push(NewEvent::state_transition(from, to, phase, phases));
        self.note_time(from, to, at);
        if to.is_final() {
            self.run.waiting_for = None;
            self.cancel_interrupts(at);
            let message = self.run.error_message.clone();
            self.push(NewEvent::complete(to, message.as_deref()));
        }
    }

    fn note_time(&mut self, from: RunStatus, to: RunStatus, at: Timestamp) {
        let deadline = at.checked_add(self.context.run_timeout).ok();
        let times = &mut self.run.times;
        match to {
            RunStatus::Queued => times.queued_at = times.queued_at.or(Some(at)),
            RunStatus::Planning => {
                times.started_at = times.started_at.or(Some(at));
                times.deadline_at = times.deadline_at.or(deadline);
            }
            RunStatus::WaitingUser | RunStatus::Paused => times.paused_at = Some(at),
            RunStatus::Executing if matches!(from, RunStatus::WaitingUser | RunStatus::Paused) => {
                times.resumed_at = Some(at);
                // Time away is not working time.
                let away = times.paused_at.map(|since| at.duration_since(since));
                if let (Some(deadline), Some(away)) = (times.deadline_at, away) {
                    times.deadline_at = deadline.checked_add(away).ok();
                }
            }
            ended if ended.is_final() => times.completed_at = times.completed_at.or(Some(at)),
            _ => {}
        }
        if to == RunStatus::Cancelled && times.cancel_requested_at.is_none() {
            times.cancel_requested_at = Some(at);
            self.run.state.cancel_requested = true;
        }
    }

    fn plan(&mut self, plan: &Plan) {
        let phases = plan.total_phases();
        self.run.state.current_phase = 1;
        self.run.state.total_phases = phases;
        self.run.counters.plan_version += 1;
        let value = serde_json::to_value(plan).unwrap_or(Value::Null);
        self.writes
            .push(Statement::new(UPDATE_PLAN, params![self.run.state.id.0, value]));
        let text = format!("Plan created with {phases} phase(s)");
        let metadata =
            json!({"event": "plan", "phases": phases, "plan_version": self.run.counters.plan_version});
        self.push(NewEvent::new(LogType::Info, text, metadata));
    }

    /// The rest of the plan is another one; the run stays in its phase.
    fn plan_revised(&mut self, plan: &Plan, reason: &str, difference: &PlanDifference) {
        let phases = plan.total_phases();
        self.run.state.total_phases = phases;
        self.run.counters.plan_version += 1;
        let value = serde_json::to_value(plan).unwrap_or(Value::Null);
        self.writes
            .push(Statement::new(UPDATE_PLAN, params![self.run.state.id.0, value]));
        let metadata = json!({"event": "replan", "reason": reason, "phases": phases,
            "plan_version": self.run.counters.plan_version, "difference": difference});
        self.push(NewEvent::new(
            LogType::Info,
            format!("Plan changed: {reason}"),
            metadata,
        ));
    }

    /// Turn 0 is the planner's call; its reply is kept like any other.
    fn turn(&mut self, call: ModelCall) {
        let at = self.tick();
        let ModelCall {
            turn,
            model,
            provider,
            usage,
        } = call;
        let number = turn.number;
        let key = turn_key(self.run.state.id, number);
        self.token_record(&key, (model.clone(), provider.clone()), usage, at);
        let actions = serde_json::to_value(&turn.actions).unwrap_or(Value::Null);
        let run_id = self.run.state.id.0;
        let params = params![
            run_id,
            number as i32,
            turn.raw,
            actions,
            turn.fault,
            model,
            provider,
            at
        ];
        self.writes.push(Statement::new(INSERT_TURN, params));
        for reasoning in turn
            .actions
            .iter()
            .filter_map(|action| action.reasoning.as_deref())
        {
            if !reasoning.trim().is_empty() {
                let metadata = json!({"event": "reasoning", "turn": number});
                let text = format!("Agent reasoning: {reasoning}");
                self.push(NewEvent::new(LogType::Info, text, metadata));
            }
        }
    }

    fn token_record(&mut self, key: &str, (model, provider): (String, String), usage: Usage, at: Timestamp) {
        self.run.counters.tokens += usage.total();
        let params = params![
            self.context.ids.uuid(),
            self.run.state.id.0,
            key.to_owned(),
            model,
            provider,
            usage.input_tokens,
            usage.output_tokens,
            usage.is_estimated,
            at,
            self.run.state.user_id.as_ref().map(|user| user.0.clone()),
            usage.cached_tokens,
            usage.reasoning_tokens,
            usage.cost_micros
        ];
        self.writes.push(Statement::new(INSERT_TOKENS, params));
    }

    fn message(&mut self, message: NewMessage) {
        let at = if message.silent {
            self.tick()
        } else {
            self.push(NewEvent::message(message.id, message.role, &message.content))
        };
        self.message_row(&message, at);
    }

    fn message_row(&mut self, message: &NewMessage, at: Timestamp) {
        let params = params![
            message.id.0,
            self.run.state.id.0,
            message.step_id.map(|step| step.0),
            message.role,
            message.content.clone(),
            at
        ];
        self.writes.push(Statement::new(INSERT_MESSAGE, params));
    }
}

/// The key of a reply's token record; those of its failed tries begin with it. Turn 0 is the plan.
pub(super) fn turn_key(run_id: RunId, number: u32) -> String {
    let kind = if number == 0 { "plan" } else { "turn" };
    format!("{run_id}:{kind}:{number}")
}
