//! The supervisor: a machine without IO that works through the plan.
//!
//! It says what comes next ([`Supervisor::next`]) and turns a stored reply ([`Supervisor::on_turn`]) or a tool's result
//! ([`Supervisor::on_result`]) into changes. Both return everything that follows without another call outside, so
//! that it is committed together: after the commit of a turn every action before its first tool call is applied, after
//! the commit of a result every action up to the next tool call. Hence the number of settled steps of the
//! last turn says exactly where a run stands, and replaying the stored turns and results rebuilds the machine.

mod types;

use crate::gate;
pub use crate::limits::Limits;
use crate::parse::{PHASE_COMPLETE, TASK_COMPLETE};
use crate::replan::REPLAN;
use crate::snapshot::{Snapshot, assistant_message};
use domain::action::{Action, ActionKind};
use domain::change::RunError;
use domain::ids::RunId;
use domain::{Change, LogType, NewEvent, Plan, RunStatus, ToolResult, Turn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
pub use types::{Applied, DueTool, Next};

/// This many replies in a row that hold no valid action end the run.
pub const MAX_INVALID_REPLIES: u32 = 3;

/// What the log says when the model ended the run.
const TASK_DONE: &str = "Task completed successfully";

/// Whether nothing comes after this action, when it is taken.
fn ends_task(action: &Action) -> bool {
    action.kind == ActionKind::TaskComplete || action.tool_name.as_deref() == Some(TASK_COMPLETE)
}

/// State of the machine; serializable, and rebuilt from stored turns and results by [`Supervisor::restore`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Supervisor {
    run_id: RunId,
    limits: Limits,
    phase: u32,
    phases: u32,
    last_turn: u32,
    invalid_replies: u32,
    failures: u32,
    queue: VecDeque<(u32, Action)>,
    waiting: bool,
    ended: Option<RunStatus>,
}

impl Supervisor {
    /// At the start of a plan with this many phases.
    pub fn new(run_id: RunId, phases: u32, limits: Limits) -> Self {
        Self {
            run_id,
            limits,
            phase: 1,
            phases,
            last_turn: 0,
            invalid_replies: 0,
            failures: 0,
            queue: VecDeque::new(),
            waiting: false,
            ended: None,
        }
    }

    /// Rebuilds the machine from what is stored. Besides, the ending that a pause held back, to be committed now.
    pub fn restore(snapshot: &Snapshot, limits: Limits) -> (Self, Vec<Change>) {
        let phases = snapshot.plan.as_ref().map_or(0, domain::Plan::total_phases);
        let mut machine = Self::new(snapshot.run_id, phases, limits);
        let mut ending = vec![];
        for turn in &snapshot.turns {
            // A run that goes on after a question is not waiting any more.
            machine.waiting = false;
            ending = machine.on_turn(turn).ending;
            while let Next::RunTool(due) = machine.next() {
                let stored = snapshot
                    .step(due.turn, due.action)
                    .and_then(|step| step.result.as_ref());
                let Some(result) = stored else { break };
                ending = machine.on_result(result).ending;
            }
        }
        // A question is asked once it is stored; one that is not was held back, any other is answered.
        let held_back = |change: &Change| match change {
            Change::InterruptOpened(asked) => {
                !snapshot.gate.interrupts.iter().any(|known| known.id == asked.id)
            }
            _ => false,
        };
        machine.waiting &= ending.iter().any(held_back);
        if machine.ended.is_none() && !machine.waiting {
            ending.clear();
        }
        (machine, ending)
    }

    pub fn next(&self) -> Next {
        if let Some(status) = self.ended {
            return Next::End(status);
        }
        if self.waiting {
            return Next::Wait;
        }
        match self.queue.front() {
            Some((action, call)) => Next::RunTool(DueTool {
                turn: self.last_turn,
                action: *action,
                phase: self.phase,
                call: call.clone(),
            }),
            None => Next::CallModel {
                turn: self.last_turn + 1,
            },
        }
    }

    /// The tool calls that are due one after the other, with nothing in between.
    pub fn tools_in_a_row(&self) -> impl Iterator<Item = DueTool> {
        let queue = if self.ended.is_some() || self.waiting {
            None
        } else {
            Some(&self.queue)
        };
        let tools = queue
            .into_iter()
            .flatten()
            .take_while(|(_, action)| action.kind == ActionKind::Tool);
        tools.map(|(action, call)| DueTool {
            turn: self.last_turn,
            action: *action,
            phase: self.phase,
            call: call.clone(),
        })
    }

    /// The tool calls of this turn that are still to be made, in order, up to where it ends otherwise.
    pub fn due_tools(&self) -> Vec<DueTool> {
        self.queue
            .iter()
            .take_while(|(_, call)| !(call.kind == ActionKind::RequestInput || ends_task(call)))
            .filter(|(_, call)| call.kind == ActionKind::Tool)
            .map(|(action, call)| DueTool {
                turn: self.last_turn,
                action: *action,
                phase: self.phase,
                call: call.clone(),
            })
            .collect()
    }

    /// The turn limit, checked before a turn is asked for.
    pub fn before_turn(&mut self) -> Vec<Change> {
        if self.last_turn < self.limits.max_turns {
            return vec![];
        }
        self.end(
            RunStatus::Timeout,
            Some(RunError::new("max_iterations", "Maximum iterations reached")),
        )
    }

    /// Whether the plan holds the present phase; one that was changed by hand may not.
    pub fn outside_plan(&mut self, plan: &Plan) -> Vec<Change> {
        if plan.phases.iter().any(|phase| phase.phase_number == self.phase) {
            return vec![];
        }
        let text = format!("Phase {} not found in plan", self.phase);
        self.end(RunStatus::Failed, Some(RunError::new("phase_not_found", text)))
    }

    /// The user cannot pay for another turn.
    pub fn out_of_credits(&mut self) -> Vec<Change> {
        let error = RunError::new("insufficient_credits", "Insufficient credits to continue");
        self.end(RunStatus::Failed, Some(error))
    }

    /// Takes a reply; the changes belong into one commit with the turn itself.
    pub fn on_turn(&mut self, turn: &Turn) -> Applied {
        self.last_turn = turn.number;
        if turn.actions.is_empty() {
            return self.invalid_reply(turn);
        }
        self.invalid_replies = 0;
        self.queue = (0..).zip(turn.actions.iter().cloned()).collect();
        self.apply_until_tool()
    }

    /// Takes the result of the tool call that was due; the changes belong into one commit with the settled step.
    pub fn on_result(&mut self, result: &ToolResult) -> Applied {
        let settled = self.queue.pop_front();
        if result.success {
            self.failures = 0;
            let steered = settled.map(|(index, action)| self.steered(index, &action, result));
            return self.then_until_tool(steered.unwrap_or_default());
        }
        if settled.is_some_and(|(_, action)| ends_task(&action)) {
            // What was to come after the end is not done now either.
            self.queue.clear();
        }
        self.failures += 1;
        if self.failures < self.limits.max_failures {
            return self.apply_until_tool();
        }
        let error = format!(
            "Action failed: {}",
            result.error.as_deref().unwrap_or("unknown error")
        );
        Applied::end(self.end(RunStatus::Failed, Some(RunError::new("action_failed", error))))
    }

    /// The end of the task that was due as a call is taken.
    pub fn end_task(&mut self) -> Applied {
        let Some((index, action)) = self.queue.pop_front() else {
            return Applied::default();
        };
        let said = self.said_at_end(index, &action);
        said.then(self.complete(TASK_DONE))
    }

    fn invalid_reply(&mut self, turn: &Turn) -> Applied {
        self.invalid_replies += 1;
        let fault = turn.fault.as_deref().unwrap_or("no action");
        let metadata = json!({"event": "invalid_reply", "turn": turn.number, "fault": fault});
        let note = NewEvent::warning("The model's reply held no valid action", metadata);
        let mut applied = Applied::of(vec![Change::Log(note)]);
        if self.invalid_replies >= MAX_INVALID_REPLIES {
            let error = RunError::new("no_valid_action", "Failed to determine next action");
            applied.ending = self.end(RunStatus::Failed, Some(error));
        }
        applied
    }

    /// A call that steers the run has its effect here.
    fn steered(&mut self, index: u32, action: &Action, result: &ToolResult) -> Applied {
        match action.tool_name.as_deref() {
            Some(REPLAN) => {
                let phases = result.output.get("phases").and_then(Value::as_u64);
                self.phases = phases.map_or(self.phases, |phases| phases as u32);
                Applied::default()
            }
            Some(PHASE_COMPLETE) => {
                let said = self.said_at_end(index, action);
                said.then(self.complete_phase())
            }
            _ => Applied::default(),
        }
    }

    /// What the model says with the end of a phase or of the task.
    fn said_at_end(&self, index: u32, action: &Action) -> Applied {
        let input = action.tool_input.as_ref();
        let summary = input.and_then(|input| input.get("summary")?.as_str());
        let said = summary
            .filter(|text| !text.trim().is_empty())
            .map(|text| Change::MessageAdded(assistant_message(self.run_id, self.last_turn, index, text)));
        Applied::of(said.into_iter().collect())
    }

    fn apply_until_tool(&mut self) -> Applied {
        self.then_until_tool(Applied::default())
    }

    fn then_until_tool(&mut self, mut applied: Applied) -> Applied {
        while self.ended.is_none() && !self.waiting {
            match self.queue.pop_front() {
                None => break,
                Some((index, action)) if action.kind == ActionKind::Tool => {
                    self.queue.push_front((index, action));
                    break;
                }
                Some((index, action)) => applied = applied.then(self.apply(index, &action)),
            }
        }
        applied
    }

    fn apply(&mut self, index: u32, action: &Action) -> Applied {
        let text = action.message.as_deref().filter(|text| !text.trim().is_empty());
        let message = |text| assistant_message(self.run_id, self.last_turn, index, text);
        if action.kind == ActionKind::RequestInput {
            let question = text.unwrap_or("Please tell me more.");
            let asked = Change::InputRequested {
                message_id: message(question).id,
                question: question.to_owned(),
            };
            let interrupt = gate::question(self.run_id, (self.last_turn, index), question);
            let waiting = Change::Waiting(Some(
                json!({"kind": "user", "detail": question, "interrupt_ids": [interrupt.id]}),
            ));
            self.waiting = true;
            self.queue.clear();
            return Applied::end(vec![
                asked,
                Change::InterruptOpened(Box::new(interrupt)),
                waiting,
                Change::Status {
                    to: RunStatus::WaitingUser,
                    error: None,
                },
            ]);
        }
        let said = Applied::of(
            text.map(|text| Change::MessageAdded(message(text)))
                .into_iter()
                .collect(),
        );
        match action.kind {
            ActionKind::PhaseComplete => said.then(self.complete_phase()),
            ActionKind::TaskComplete => said.then(self.complete(TASK_DONE)),
            ActionKind::Tool | ActionKind::Message | ActionKind::RequestInput => said,
        }
    }

    fn complete(&mut self, text: &str) -> Applied {
        let mut ending = vec![Change::Log(NewEvent::new(LogType::Success, text, json!({})))];
        ending.extend(self.end(RunStatus::Completed, None));
        Applied::end(ending)
    }

    fn complete_phase(&mut self) -> Applied {
        if self.phase >= self.phases {
            return self.complete("All phases completed");
        }
        let from = self.phase;
        self.phase += 1;
        Applied::of(vec![Change::PhaseAdvanced { from, to: self.phase }])
    }

    fn end(&mut self, status: RunStatus, error: Option<RunError>) -> Vec<Change> {
        self.ended = Some(status);
        self.queue.clear();
        let mut changes = vec![];
        if let Some(error) = &error {
            changes.push(Change::Log(NewEvent::error(error.message.clone())));
        }
        changes.push(Change::Status { to: status, error });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{StoredStep, step_id};
    use domain::Phase;
    use domain::interrupt::{InterruptDecision, InterruptStatus, KnownInterrupt};
    use domain::run::StepStatus;
    use serde_json::Value;
    use uuid::Uuid;

    fn run() -> RunId {
        RunId(Uuid::from_u128(1))
    }

    fn action(kind: ActionKind, message: Option<&str>) -> Action {
        let tool = kind == ActionKind::Tool;
        Action {
            kind,
            tool_name: tool.then(|| "shell".to_owned()),
            tool_input: tool.then(|| json!({"command": "ls"})),
            message: message.map(str::to_owned),
            reasoning: None,
            call_id: None,
            refused: None,
        }
    }

    fn turn(number: u32, actions: Vec<Action>) -> Turn {
        Turn {
            number,
            actions,
            raw: Value::Null,
            fault: None,
        }
    }

    fn last_status(changes: &[Change]) -> Option<RunStatus> {
        changes.iter().rev().find_map(|change| match change {
            Change::Status { to, .. } => Some(*to),
            _ => None,
        })
    }

    #[test]
    fn actions_after_a_tool_wait_for_its_result_and_come_in_one_commit_with_it() {
        let mut machine = Supervisor::new(run(), 2, Limits::default());
        let reply = turn(
            1,
            vec![
                action(ActionKind::Message, Some("hi")),
                action(ActionKind::Tool, None),
                action(ActionKind::PhaseComplete, None),
                action(ActionKind::TaskComplete, None),
            ],
        );
        assert_eq!(machine.on_turn(&reply).all().len(), 1, "only the message");
        let Next::RunTool(due) = machine.next() else {
            panic!("a tool is due")
        };
        assert_eq!((due.turn, due.action, due.phase), (1, 1, 1));
        let changes = machine.on_result(&ToolResult::ok(json!({}), 1.0)).all();
        assert!(changes.contains(&Change::PhaseAdvanced { from: 1, to: 2 }));
        assert_eq!(last_status(&changes), Some(RunStatus::Completed));
        assert_eq!(machine.next(), Next::End(RunStatus::Completed));
    }

    #[test]
    fn the_last_phase_completes_the_run() {
        let mut machine = Supervisor::new(run(), 1, Limits::default());
        let changes = machine
            .on_turn(&turn(1, vec![action(ActionKind::PhaseComplete, None)]))
            .all();
        assert_eq!(last_status(&changes), Some(RunStatus::Completed));
        assert!(format!("{changes:?}").contains("All phases completed"));
    }

    #[test]
    fn three_invalid_replies_in_a_row_end_the_run_and_a_valid_one_between_resets() {
        let mut machine = Supervisor::new(run(), 1, Limits::default());
        machine.on_turn(&turn(1, vec![]));
        machine.on_turn(&turn(2, vec![action(ActionKind::Message, Some("x"))]));
        machine.on_turn(&turn(3, vec![]));
        assert_eq!(last_status(&machine.on_turn(&turn(4, vec![])).all()), None);
        let changes = machine.on_turn(&turn(5, vec![])).all();
        assert_eq!(last_status(&changes), Some(RunStatus::Failed));
        assert!(format!("{changes:?}").contains("Failed to determine next action"));
    }

    #[test]
    fn failing_steps_in_a_row_end_the_run_with_the_last_error() {
        let mut machine = Supervisor::new(
            run(),
            1,
            Limits {
                max_failures: 2,
                ..Limits::default()
            },
        );
        machine.on_turn(&turn(
            1,
            vec![action(ActionKind::Tool, None), action(ActionKind::Tool, None)],
        ));
        assert!(
            machine
                .on_result(&ToolResult::failed("one", 0.0))
                .all()
                .is_empty()
        );
        let changes = machine.on_result(&ToolResult::failed("two", 0.0)).all();
        assert!(format!("{changes:?}").contains("Action failed: two"));
        assert_eq!(last_status(&changes), Some(RunStatus::Failed));
    }

    #[test]
    fn the_turn_limit_is_a_timeout() {
        let mut machine = Supervisor::new(
            run(),
            1,
            Limits {
                max_turns: 1,
                ..Limits::default()
            },
        );
        assert!(machine.before_turn().is_empty());
        machine.on_turn(&turn(1, vec![action(ActionKind::Message, Some("x"))]));
        assert_eq!(last_status(&machine.before_turn()), Some(RunStatus::Timeout));
    }

    #[test]
    fn asking_the_user_drops_the_rest_of_the_turn_and_a_restored_run_goes_on() {
        let mut machine = Supervisor::new(run(), 1, Limits::default());
        let asked = turn(
            1,
            vec![
                action(ActionKind::RequestInput, Some("which?")),
                action(ActionKind::Tool, None),
            ],
        );
        let changes = machine.on_turn(&asked).all();
        assert_eq!(last_status(&changes), Some(RunStatus::WaitingUser));
        assert_eq!(machine.next(), Next::Wait);
        let mut stored = snapshot(vec![asked], vec![]);
        stored.gate.interrupts = changes.iter().filter_map(answered).collect();
        let (restored, ending) = Supervisor::restore(&stored, Limits::default());
        assert_eq!((restored.next(), ending), (Next::CallModel { turn: 2 }, vec![]));
    }

    /// An interrupt that was opened, as it is stored once it is answered.
    fn answered(change: &Change) -> Option<KnownInterrupt> {
        let Change::InterruptOpened(asked) = change else {
            return None;
        };
        Some(KnownInterrupt {
            id: asked.id,
            kind: asked.kind,
            turn: asked.turn,
            action: asked.action,
            hash: None,
            status: InterruptStatus::Resolved,
            decision: Some(InterruptDecision::Answer),
            response: json!({"text": "this"}),
        })
    }

    #[test]
    fn a_question_held_back_by_a_pause_is_asked_after_the_restore() {
        let asked = turn(1, vec![action(ActionKind::RequestInput, Some("which?"))]);
        let mut machine = Supervisor::new(run(), 1, Limits::default());
        let held_back = machine.on_turn(&asked).ending;
        let (restored, ending) = Supervisor::restore(&snapshot(vec![asked], vec![]), Limits::default());
        assert_eq!((restored.next(), ending), (Next::Wait, held_back));
    }

    fn snapshot(turns: Vec<Turn>, steps: Vec<StoredStep>) -> Snapshot {
        let phase = |n| Phase {
            phase_number: n,
            name: "p".into(),
            description: String::new(),
            required_capabilities: vec![],
            estimated_credits: 0.0,
            dependencies: vec![],
            expected_outputs: vec![],
        };
        let plan = Plan {
            goal: "g".into(),
            total_estimated_credits: 0.0,
            total_estimated_duration_minutes: 0.0,
            required_capabilities: vec![],
            risks: vec![],
            phases: vec![phase(1), phase(2), phase(3)],
        };
        Snapshot {
            run_id: run(),
            user_id: "u".into(),
            status: RunStatus::Executing,
            prompt: "p".into(),
            connector_ids: vec![],
            plan: Some(plan),
            current_phase: 1,
            turns,
            steps,
            user_messages: vec![],
            gate: crate::gate::Gate::default(),
            attempt: 1,
        }
    }

    #[test]
    fn an_ending_held_back_by_a_pause_comes_after_the_restore() {
        let both = vec![
            action(ActionKind::Tool, None),
            action(ActionKind::TaskComplete, None),
        ];
        let result = Some(ToolResult::ok(json!({}), 1.0));
        let status = StepStatus::Completed;
        let step = StoredStep {
            id: step_id(run(), 1, 0),
            turn: 1,
            action: 0,
            status,
            result,
            started_here: false,
        };
        let (machine, ending) =
            Supervisor::restore(&snapshot(vec![turn(1, both)], vec![step]), Limits::default());
        assert_eq!(machine.next(), Next::End(RunStatus::Completed));
        assert_eq!(last_status(&ending), Some(RunStatus::Completed));
    }

    /// Wherever a run is cut, replaying what is stored gives the machine that was there.
    #[test]
    fn a_machine_restored_after_any_commit_equals_the_one_that_went_on() {
        let turns = vec![
            turn(
                1,
                vec![
                    action(ActionKind::Tool, None),
                    action(ActionKind::PhaseComplete, None),
                ],
            ),
            turn(2, vec![]),
            turn(
                3,
                vec![
                    action(ActionKind::Message, Some("m")),
                    action(ActionKind::Tool, None),
                    action(ActionKind::Tool, None),
                ],
            ),
            turn(4, vec![action(ActionKind::PhaseComplete, None)]),
            // An end that is refused, with a call behind it that is dropped.
            turn(
                5,
                vec![
                    Action {
                        tool_name: Some(TASK_COMPLETE.to_owned()),
                        ..action(ActionKind::Tool, None)
                    },
                    action(ActionKind::Tool, None),
                ],
            ),
        ];
        let mut machine = Supervisor::new(run(), 3, Limits::default());
        let (mut stored, mut steps) = (vec![], vec![]);
        for reply in turns {
            machine.on_turn(&reply);
            stored.push(reply);
            assert_eq!(
                Supervisor::restore(&snapshot(stored.clone(), steps.clone()), Limits::default()).0,
                machine
            );
            while let Next::RunTool(due) = machine.next() {
                let result = ToolResult::failed("no", 0.0);
                machine.on_result(&result);
                let id = step_id(run(), due.turn, due.action);
                let status = StepStatus::Failed;
                steps.push(StoredStep {
                    id,
                    turn: due.turn,
                    action: due.action,
                    status,
                    result: Some(result),
                    started_here: false,
                });
                assert_eq!(
                    Supervisor::restore(&snapshot(stored.clone(), steps.clone()), Limits::default()).0,
                    machine
                );
            }
        }
        assert_eq!(machine.next(), Next::CallModel { turn: 6 });
        assert_eq!(steps.len(), 4, "the call behind the end was not made");
    }
}
