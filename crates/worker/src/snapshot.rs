//! A run as stored becomes a run as the agent sees it.

use agent::gate::Gate;
use agent::snapshot::{Snapshot, StoredStep, UserMessage, assistant_message};
use domain::Policy;
use domain::ids::{MessageId, StepId};
use domain::interrupt::KnownInterrupt;
use runs::{Funds, RestoredMessage, RunRules, RunSnapshot, WantedFiles};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What holds for every run, under what a run's creator said.
#[derive(Debug, Clone)]
pub struct GateRules {
    pub policy: Arc<Policy>,
    /// An approval that nobody gave by then counts as rejected.
    pub approval_timeout: Duration,
}

impl GateRules {
    /// The gate of a run. A policy that is not understood was stored by another version: then everything is asked for.
    fn of_run(&self, rules: &RunRules, interrupts: Vec<KnownInterrupt>) -> Gate {
        let own = rules.policy.as_ref().map(Policy::parse).transpose();
        let own = own.unwrap_or_else(|fault| {
            tracing::warn!(%fault, "a run's policy is not understood, everything is asked for");
            Some(Policy::asking())
        });
        Gate {
            policy: own.unwrap_or_default().over(Arc::clone(&self.policy)),
            plan_only: rules.plan_only,
            approval_timeout: self.approval_timeout,
            interrupts,
        }
    }
}

/// A run as its claim brought it: with the files it is to be given, what it may spend, and the MCP servers it named.
pub(crate) type Brought = (Snapshot, Option<WantedFiles>, Option<Funds>, Option<Vec<String>>);

/// The agent's view for this attempt (from 1).
pub fn to_snapshot(stored: RunSnapshot, attempt: u32, rules: &GateRules) -> Snapshot {
    let gate = rules.of_run(&stored.rules, stored.interrupts);
    let turns: Vec<_> = stored
        .turns
        .into_iter()
        .map(|turn| turn.turn)
        .filter(|turn| turn.number > 0)
        .collect();
    let run_id = stored.run.id;
    let spoken: HashMap<MessageId, u32> = turns
        .iter()
        .flat_map(|turn| {
            (0u32..)
                .zip(&turn.actions)
                .map(|(action, _)| (turn.number, action))
        })
        .map(|(turn, action)| (assistant_message(run_id, turn, action, "").id, turn))
        .collect();
    let made: HashMap<StepId, u32> = stored.steps.iter().map(|step| (step.id, step.turn)).collect();
    let user_messages = user_messages(&stored.messages, &spoken, &made);
    let steps = stored
        .steps
        .into_iter()
        .map(|step| StoredStep {
            id: step.id,
            turn: step.turn,
            action: step.action,
            status: step.status,
            result: step.result,
            started_here: false,
        })
        .collect();
    Snapshot {
        run_id,
        user_id: stored.user_id,
        status: stored.run.status,
        prompt: stored.prompt,
        connector_ids: stored.connector_ids,
        plan: stored.plan,
        current_phase: stored.run.current_phase,
        turns,
        steps,
        user_messages,
        gate,
        attempt,
    }
}

/// What the user said after the prompt, each behind the last turn that had left a message by then.
fn user_messages(
    messages: &[RestoredMessage],
    spoken: &HashMap<MessageId, u32>,
    made: &HashMap<StepId, u32>,
) -> Vec<UserMessage> {
    let mut after_turn = 0;
    let mut said = vec![];
    let mut prompt_seen = false;
    for message in messages {
        let turn = spoken
            .get(&message.id)
            .or_else(|| message.step_id.as_ref().and_then(|step| made.get(step)));
        after_turn = after_turn.max(turn.copied().unwrap_or(0));
        if message.role != "user" {
            continue;
        }
        if prompt_seen {
            said.push(UserMessage {
                after_turn,
                content: message.content.clone(),
            });
        }
        prompt_seen = true;
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use uuid::Uuid;

    fn message(id: u128, role: &str, content: &str, step: Option<u128>) -> RestoredMessage {
        RestoredMessage {
            id: MessageId(Uuid::from_u128(id)),
            role: role.to_owned(),
            content: content.to_owned(),
            step_id: step.map(|step| StepId(Uuid::from_u128(step))),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_answer_stands_behind_the_turn_that_asked() {
        let spoken = HashMap::from([(MessageId(Uuid::from_u128(3)), 4)]);
        let made = HashMap::from([(StepId(Uuid::from_u128(9)), 2)]);
        let messages = [
            message(1, "user", "the prompt", None),
            message(2, "tool", "result", Some(9)),
            message(5, "user", "early", None),
            message(3, "assistant", "which?", None),
            message(4, "user", "that one", None),
        ];
        let said = user_messages(&messages, &spoken, &made);
        let expected = [(2, "early"), (4, "that one")];
        assert_eq!(said.len(), 2);
        for (message, (turn, content)) in said.iter().zip(expected) {
            assert_eq!((message.after_turn, message.content.as_str()), (turn, content));
        }
    }
}
