//! Before a call is made: may it be, by the policy of the run and by what a person said.
//!
//! Decided anew from what is stored whenever a drive comes to the call, so a lost worker changes nothing. While a person is
//! asked nothing is held: the run waits without worker and without a place in the queue. A step that has begun was let through
//! before, and is not asked for again.
//!
//! What can never be done is refused at once, and nobody is asked about it. A call that was refused has read nothing: that is
//! stored with its step, and is not told by its error, which others could imitate.

use super::tool_calls::settled;
use super::{Driver, Flow, Outcome};
use crate::gate::{self, Gate};
use crate::ports::{Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::replan::REPLAN;
use crate::snapshot::{Snapshot, assistant_message};
use crate::step::{called, idempotency_key, start_step};
use crate::supervisor::{DueTool, Supervisor};
use crate::tools::ask_user::{self, ASK_USER};
use domain::change::Change;
use domain::interrupt::{
    InterruptKind, InterruptStatus, KnownInterrupt, NewInterrupt, OpenInterrupt, call_hash,
};
use domain::policy::{CallFacts, CallVerdict, MCP_PREFIX, decide_call, says_new};
use domain::waiting::{interrupted, open_in_words};
use domain::{Labels, Plan, RunStatus, ToolResult};
use serde_json::{Value, json};

/// What becomes of a call that is due.
enum Admission {
    /// As it is now: with the input its user gave instead, if any.
    Run(DueTool),
    /// It is not made; this is its result.
    Settle(DueTool, ToolResult),
    /// A person is asked first.
    Ask(Box<NewInterrupt>),
}

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// The call to make now; nothing when it was refused and the model goes on. Ends the drive when a person has to be asked.
    pub(super) async fn admitted(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        due: DueTool,
    ) -> Flow<Option<DueTool>> {
        match self.admission(snapshot, due) {
            Admission::Run(due) => Ok(Some(due)),
            Admission::Settle(due, result) => {
                self.may_begin_step(snapshot, &due).await?;
                let effect = self.tools.effect_of(&called(&due).0, &called(&due).1);
                let begun = start_step(snapshot, &due, effect);
                let (stored, next) = settled(snapshot, machine, &due, (result, 0));
                let happened = std::iter::once(begun).chain(stored).chain(next).collect();
                self.commit(happened).await?;
                Ok(None)
            }
            Admission::Ask(_) => {
                let asked = self.questions(snapshot, machine);
                self.commit(asked).await?;
                Err(Outcome::Waiting)
            }
        }
    }

    /// The call, when nothing stands in its way.
    pub(super) fn may_begin(&self, snapshot: &Snapshot, due: DueTool) -> Option<DueTool> {
        match self.admission(snapshot, due) {
            Admission::Run(due) => Some(due),
            Admission::Settle(..) | Admission::Ask(_) => None,
        }
    }

    fn admission(&self, snapshot: &Snapshot, asked_for: DueTool) -> Admission {
        if let Some(error) = asked_for.call.refused.clone() {
            return refused(asked_for, error);
        }
        let gate = &snapshot.gate;
        let place = (asked_for.turn, asked_for.action);
        let due = gate.as_decided(asked_for.clone());
        if snapshot.step(due.turn, due.action).is_some() {
            return Admission::Run(due);
        }
        let known = gate.asked(place);
        if let Some(refusal) = known
            .filter(|asked| asked.kind == InterruptKind::Tool)
            .and_then(KnownInterrupt::refusal)
        {
            return refused(due, refusal);
        }
        let (name, input) = called(&due);
        let labels = self.tools.labels_of(&name, &input);
        let verdict = self.verdict(snapshot, (&name, &input), labels);
        match verdict {
            CallVerdict::Deny { reason } => refused(due, format!("Not allowed by policy: {reason}")),
            _ if name == ASK_USER => ask_user_of(snapshot, due, known),
            // Whatever comes of it changes nothing for the calls after it.
            CallVerdict::Allow if labels == Labels::default() => Admission::Run(due),
            verdict => match (self.refusal(snapshot, &due), verdict) {
                (Some(refusal), _) => Admission::Settle(due, refusal),
                (None, CallVerdict::Ask { reason }) => {
                    self.approved(snapshot, (due, asked_for), known, (labels, reason))
                }
                (None, _) => Admission::Run(due),
            },
        }
    }

    /// What a call that nobody can let through is told.
    fn refusal(&self, snapshot: &Snapshot, due: &DueTool) -> Option<ToolResult> {
        let (tool_name, tool_input) = called(due);
        let key = idempotency_key(snapshot.run_id, due);
        let call = self.call_of(snapshot, due, (&tool_name, &tool_input, &key));
        self.tools.refusal(&call).map(ToolResult::as_refused)
    }

    /// A call that a person decides about: has decided, or is to be asked.
    fn approved(
        &self,
        snapshot: &Snapshot,
        (due, asked_for): (DueTool, DueTool),
        known: Option<&KnownInterrupt>,
        (labels, reason): (Labels, String),
    ) -> Admission {
        match known.filter(|asked| asked.status == InterruptStatus::Resolved) {
            Some(approved) if self.fits(approved, &asked_for) => Admission::Run(due),
            Some(_) => {
                let error = "Approval does not fit the call: it was given for another input";
                refused(asked_for, error)
            }
            None => {
                let pin = self.tools.pin_of(&called(&due).0);
                let (gate, now) = (&snapshot.gate, self.clock.now());
                let asked = gate.approval(snapshot.run_id, &due, (labels, pin, reason), now);
                Admission::Ask(Box::new(asked))
            }
        }
    }

    /// What the policy says of a call in this run.
    fn verdict(&self, snapshot: &Snapshot, (name, input): (&str, &Value), labels: Labels) -> CallVerdict {
        let gate = &snapshot.gate;
        let verdict = decide_call(
            &gate.policy,
            &CallFacts {
                tool_name: name,
                tool_input: input,
                labels,
                seen: self.seen(snapshot, labels),
                says_new: labels.acts_outside && self.is_new(snapshot, input),
            },
        );
        match verdict {
            CallVerdict::Allow if changes_shown_plan(gate, name) => CallVerdict::Ask {
                reason: gate::PLAN_ONLY.to_owned(),
            },
            other => other,
        }
    }

    /// An approval is bound to the exact call that was asked for.
    fn fits(&self, approved: &KnownInterrupt, asked_for: &DueTool) -> bool {
        let (name, input) = called(asked_for);
        let pin = self.tools.pin_of(&name);
        approved.hash.as_deref() == Some(call_hash(&name, &input, pin.as_deref()).as_str())
    }

    /// What the run has read: by its settled steps, and by the descriptions of foreign tools, which every turn shows the model.
    fn seen(&self, snapshot: &Snapshot, labels: Labels) -> Labels {
        if !labels.acts_outside {
            return Labels::default();
        }
        let is_foreign = |spec: &crate::ports::ToolSpec| spec.name.starts_with(MCP_PREFIX);
        let described = Labels {
            reads_untrusted: self.tools.specs().iter().any(is_foreign),
            ..Labels::default()
        };
        let results = snapshot
            .steps
            .iter()
            .filter_map(|step| Some((step, step.result.as_ref()?)));
        // What the run wrote down before it had read any word of others.
        let mut own: Vec<Value> = vec![];
        let mut seen = described;
        for (step, result) in results.filter(|(_, result)| !result.refused) {
            let Some((name, input)) = made(snapshot, (step.turn, step.action)) else {
                continue;
            };
            let mut labels = self.tools.labels_of(&name, &input);
            match name.as_str() {
                "file_write" if !seen.reads_untrusted => own.extend(input.get("content").cloned()),
                // By its content, not by its name: a file may be changed in between.
                "file_read"
                    if result
                        .output
                        .get("content")
                        .is_some_and(|read| own.contains(read)) =>
                {
                    labels.reads_untrusted = false;
                }
                _ => {}
            }
            seen = seen.union(labels);
        }
        seen
    }

    /// Whether a call says what the run made up itself. An address may come from a tool that reads what strangers publish; what
    /// repeats the run's own words, a message, a file, the output of a program, could carry private data as well.
    fn is_new(&self, snapshot: &Snapshot, input: &Value) -> bool {
        let Gate { interrupts, .. } = &snapshot.gate;
        let said = snapshot
            .user_messages
            .iter()
            .map(|message| message.content.as_str());
        let answered = interrupts.iter().filter_map(KnownInterrupt::answer);
        let trusted: Vec<&str> = std::iter::once(snapshot.prompt.as_str())
            .chain(said)
            .chain(answered)
            .collect();
        let published = |(turn, action): (u32, u32)| {
            made(snapshot, (turn, action)).is_some_and(|(name, input)| {
                let labels = self.tools.labels_of(&name, &input);
                labels.reads_untrusted && !labels.reads_private
            })
        };
        let steps = snapshot.steps.iter();
        let results = steps.filter_map(|step| Some(((step.turn, step.action), step.result.as_ref()?)));
        let outputs: Vec<&Value> = results
            .filter(|(place, _)| published(*place))
            .map(|(_, result)| &result.output)
            .collect();
        says_new(input, &trusted, &outputs)
    }

    /// One commit: every call of this turn that has to be asked for, and the wait.
    fn questions(&self, snapshot: &Snapshot, machine: &Supervisor) -> Vec<Change> {
        let asks = machine
            .due_tools()
            .into_iter()
            .filter_map(|due| match self.admission(snapshot, due) {
                Admission::Ask(interrupt) => Some(interrupt),
                Admission::Run(_) | Admission::Settle(..) => None,
            });
        let asks: Vec<_> = asks.collect();
        let mut changes = vec![];
        for interrupt in &asks {
            if interrupt.kind == InterruptKind::Question {
                let text = interrupt.tool_input.as_ref().and_then(ask_user::question);
                let text = text.map(|asked| asked.text()).unwrap_or_default();
                changes.push(Change::InputRequested {
                    message_id: assistant_message(snapshot.run_id, interrupt.turn, interrupt.action, "").id,
                    question: text,
                });
            }
            changes.push(Change::InterruptOpened(interrupt.clone()));
        }
        changes.extend(waits(&asks));
        changes
    }

    /// The plan is made; a person looks at it before it is carried out.
    pub(super) fn ask_for_plan(&self, snapshot: &Snapshot, plan: &Plan) -> Vec<Change> {
        let interrupt = Box::new(
            snapshot
                .gate
                .plan_approval(snapshot.run_id, plan, self.clock.now()),
        );
        let waits = waits(std::slice::from_ref(&interrupt));
        std::iter::once(Change::InterruptOpened(interrupt))
            .chain(waits)
            .collect()
    }
}

/// A call that is not made, and why.
fn refused(due: DueTool, error: impl Into<String>) -> Admission {
    Admission::Settle(due, ToolResult::failed(error, 0.0).as_refused())
}

/// The plan was shown to a person, who allowed this one and no other; unless a rule says what becomes of new ones.
fn changes_shown_plan(gate: &Gate, tool_name: &str) -> bool {
    gate.plan_only && tool_name == REPLAN && !gate.policy.names(REPLAN)
}

/// The call of a step as it was made.
fn made(snapshot: &Snapshot, (turn, action): (u32, u32)) -> Option<(String, Value)> {
    let asked = snapshot.turns.iter().find(|stored| stored.number == turn)?;
    let call = asked.actions.get(action as usize)?;
    let name = call.tool_name.clone().unwrap_or_default();
    let edited = snapshot
        .gate
        .asked((turn, action))
        .and_then(KnownInterrupt::edited_input);
    let input = edited.or(call.tool_input.as_ref()).cloned();
    Some((name, input.unwrap_or_else(|| json!({}))))
}

fn waits(asks: &[Box<NewInterrupt>]) -> [Change; 2] {
    let open: Vec<OpenInterrupt> = asks
        .iter()
        .map(|interrupt| OpenInterrupt {
            id: interrupt.id,
            kind: interrupt.kind,
            tool_name: interrupt.tool_name.clone(),
            expires_at: interrupt.expires_at,
        })
        .collect();
    let detail = match asks {
        [only] => only.message.clone(),
        _ => open_in_words(&open),
    };
    [
        Change::Waiting(Some(interrupted(&open, &detail))),
        Change::Status {
            to: RunStatus::WaitingUser,
            error: None,
        },
    ]
}

/// A question: asked, or settled with its answer.
fn ask_user_of(snapshot: &Snapshot, due: DueTool, known: Option<&KnownInterrupt>) -> Admission {
    let Some(question) = ask_user::question(&called(&due).1) else {
        return Admission::Run(due);
    };
    match known.filter(|asked| asked.status != InterruptStatus::Open) {
        None => Admission::Ask(Box::new(gate::tool_question(snapshot.run_id, &due, &question))),
        Some(asked) => {
            let unanswered = || ToolResult::failed("The user gave no answer", 0.0);
            let result = asked.answer().map_or_else(unanswered, ask_user::answered);
            Admission::Settle(due, result)
        }
    }
}
