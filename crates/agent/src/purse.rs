//! What a run may still spend, as its driver counts while it holds the run.
//!
//! Invariant: what is counted here is either stored already or stored by the driver's next commit, so the next claim finds
//! the same sums.

use crate::ports::{ChatMessage, ModelRequest};
use domain::budget::{Budget, Dimension, Reached, Spend};
use domain::change::Change;
use domain::ids::StepId;
use domain::{NewEvent, Price, Usage};
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Characters taken as one token.
pub const CHARS_PER_TOKEN: usize = 4;

/// Tools whose time counts as sandbox time.
const SANDBOXED: [&str; 2] = ["shell", "code"];

/// The caps of one run, and its spending.
#[derive(Debug)]
pub struct Purse {
    /// When the claim was made: working time counts on from here.
    since: Timestamp,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    budget: Budget,
    /// But for the working time since the claim.
    spent: Spend,
    /// Up to here warnings are stored.
    told: Spend,
    /// Sandboxed steps begun here.
    sandboxed: HashSet<StepId>,
}

impl Purse {
    /// `spent` is what the store knows at the claim.
    pub fn new(budget: Budget, spent: Spend, since: Timestamp) -> Self {
        Self {
            since,
            state: Mutex::new(State {
                budget,
                spent,
                told: spent,
                sandboxed: HashSet::new(),
            }),
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caps were changed meanwhile.
    pub fn set_budget(&self, budget: Budget) {
        self.locked().budget = budget;
    }

    pub fn caps_money(&self) -> bool {
        self.locked().budget.cap(Dimension::Cost).is_some()
    }

    /// A model call was made.
    pub fn add_call(&self, usage: Usage) {
        let mut state = self.locked();
        state.spent = state.spent.plus(Spend::of_call(usage));
    }

    /// The cap that leaves no room for a call whose worst case is this.
    pub fn reached_by_call(&self, worst: Spend, now: Timestamp) -> Option<Reached> {
        self.reached(worst, now)
    }

    /// The cap that leaves no room for another step behind so many that are not counted yet.
    pub fn reached_by_step(&self, tool_name: &str, before: usize, now: Timestamp) -> Option<Reached> {
        let sandbox = i64::from(SANDBOXED.contains(&tool_name));
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let next = Spend::default()
            .with(Dimension::Steps, before.saturating_add(1))
            .with(Dimension::Sandbox, sandbox);
        self.reached(next, now)
    }

    /// Whether so many steps that need no sandbox may begin at once.
    pub fn has_room_for_steps(&self, steps: usize, now: Timestamp) -> bool {
        let next = Spend::default().with(Dimension::Steps, i64::try_from(steps).unwrap_or(i64::MAX));
        self.reached(next, now).is_none()
    }

    fn reached(&self, next: Spend, now: Timestamp) -> Option<Reached> {
        let state = self.locked();
        state
            .budget
            .reached(self.with_time(state.spent, now), next.with(Dimension::Wall, 1))
    }

    fn with_time(&self, spent: Spend, now: Timestamp) -> Spend {
        let worked = now.duration_since(self.since).as_millis();
        let worked = i64::try_from(worked).unwrap_or(i64::MAX).max(0);
        spent.plus(Spend::default().with(Dimension::Wall, worked))
    }

    /// Counts the steps of a commit. Gives the warnings that belong into it; they count as told by [`Purse::told`].
    pub fn account(&self, changes: &[Change], now: Timestamp) -> (Vec<NewEvent>, Spend) {
        let mut state = self.locked();
        for change in changes {
            state.count(change);
        }
        let spent = self.with_time(state.spent, now);
        (state.budget.warnings(state.told, spent), spent)
    }

    /// A commit with the warnings up to this amount is stored.
    pub fn told(&self, spent: Spend) {
        self.locked().told = spent;
    }
}

impl State {
    fn count(&mut self, change: &Change) {
        match change {
            Change::StepStarted(step) => {
                self.spent = self.spent.plus(Spend::default().with(Dimension::Steps, 1));
                if SANDBOXED.contains(&step.tool_name.as_str()) {
                    self.sandboxed.insert(step.id);
                }
            }
            Change::StepSettled {
                step_id, duration_ms, ..
            } if self.sandboxed.remove(step_id) => {
                self.spent = self
                    .spent
                    .plus(Spend::default().with(Dimension::Sandbox, *duration_ms));
            }
            _ => {}
        }
    }
}

/// The most a call can be expected to use: its request, at four characters a token, and all the tokens it may answer with.
pub fn worst_case(request: &ModelRequest, price: Option<Price>) -> Spend {
    let mut usage = Usage {
        input_tokens: request_tokens(request),
        output_tokens: i64::from(request.max_tokens),
        is_estimated: true,
        ..Usage::default()
    };
    usage.cost_micros = price.map(|price| {
        // Writing into the vendor's cache may cost more than plain input.
        let written = Usage {
            cache_write_tokens: usage.input_tokens,
            ..usage
        };
        price.cost(usage).max(price.cost(written))
    });
    Spend::of_call(usage)
}

/// Tokens of a request at four characters each, rounded up.
pub fn request_tokens(request: &ModelRequest) -> i64 {
    let messages = request.messages.iter().map(message_chars).sum::<usize>();
    let tools = request
        .tools
        .iter()
        .map(|tool| chars(&tool.name) + chars(&tool.description) + chars(&tool.input_schema.to_string()))
        .sum::<usize>();
    tokens(chars(&request.system) + messages + tools)
}

fn message_chars(message: &ChatMessage) -> usize {
    match message {
        ChatMessage::User(text) => chars(text),
        ChatMessage::Assistant { text, tool_calls } => {
            let calls = tool_calls
                .iter()
                .map(|call| chars(&call.name) + chars(&call.input.to_string()));
            text.as_deref().map_or(0, chars) + calls.sum::<usize>()
        }
        ChatMessage::ToolResult { content, .. } => chars(content),
    }
}

/// Characters of a text.
pub fn chars(text: &str) -> usize {
    text.chars().count()
}

/// Tokens of this many characters.
pub const fn tokens(chars: usize) -> i64 {
    chars.div_ceil(CHARS_PER_TOKEN) as i64
}
