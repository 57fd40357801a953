//! What of a run the model is shown: everything at first, and what fits later. The log keeps all, only this view is cut.
//!
//! - Turns are taken in one by one as they end, so a worker that takes a run over comes to the same view from what is stored.
//! - Above three quarters of the limit the long results of old turns become short notes that say where the whole is; the
//!   newest [`KEPT_RESULTS`] stay. When the turns in view are above the limit, notes not counted, the older half goes, in whole
//!   turns: a call is never parted from its result.
//!   A summary says what the turns that went have done. Prompt and plan always stay.
//! - Both are done in big steps, so that between two of them a request only adds to the one before (vendors cache the beginning).

use crate::conversation::{Form, MAX_RESULT_BYTES, cut_middle, head, turn_messages, whole_text};
use crate::ports::{ChatMessage, ToolSpec};
use crate::snapshot::Snapshot;
use domain::action::ActionKind;
use domain::{LogType, NewEvent, Plan, Turn};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};

/// `AGENT_CONTEXT_TOKENS`: longest history, in estimated tokens.
pub const CONTEXT_TOKENS: u32 = 100_000;
/// The smallest limit that can be set.
pub const MIN_CONTEXT_TOKENS: u32 = 4_000;
/// So many of the newest results are not replaced by a note.
pub const KEPT_RESULTS: usize = 6;
/// Bytes taken as one token.
const BYTES_PER_TOKEN: usize = 4;
/// Results are cleared when that makes room for at least one part in so many of the limit.
const WORTH_CLEARING: usize = 8;
/// One result takes at most one part in so many of the limit.
const RESULTS_IN_VIEW: usize = 8;
/// Of the user's messages in turns that went, the newest stay in the summary, each up to so many bytes.
const KEPT_USER_MESSAGES: usize = 10;
const KEPT_USER_BYTES: usize = 500;
/// The newest files that turns which went have written are named.
const NAMED_FILES: usize = 20;
/// However many results a turn has, each is shown with at least so many bytes.
const LEAST_RESULT_BYTES: usize = 120;

/// The longest result in a view of this size, in bytes; longer ones are cut head and tail.
pub fn longest_result(context_tokens: u32) -> usize {
    (context_tokens as usize * BYTES_PER_TOKEN / RESULTS_IN_VIEW).min(MAX_RESULT_BYTES)
}

/// Estimated tokens of messages.
pub fn tokens_of(messages: &[ChatMessage]) -> usize {
    messages
        .iter()
        .map(bytes_of)
        .sum::<usize>()
        .div_ceil(BYTES_PER_TOKEN)
}

fn bytes_of(message: &ChatMessage) -> usize {
    match message {
        ChatMessage::User(text) => text.len(),
        ChatMessage::Assistant { text, tool_calls } => {
            let calls = tool_calls
                .iter()
                .map(|call| call.name.len() + call.input.to_string().len());
            text.as_deref().map_or(0, str::len) + calls.sum::<usize>()
        }
        ChatMessage::ToolResult { content, .. } => content.len(),
    }
}

/// A turn as it is shown.
#[derive(Debug, Clone)]
struct Shown {
    /// Place in the run's turns.
    index: usize,
    messages: Vec<ChatMessage>,
    tokens: usize,
    /// The same before anything was cleared.
    full: usize,
    results: usize,
    cleared: bool,
}

/// The view of one run.
#[derive(Debug, Clone)]
pub struct Window {
    limit: usize,
    longest_result: usize,
    /// System text and tools.
    fixed: usize,
    head: usize,
    shown: VecDeque<Shown>,
    /// What the turns that went have done.
    summary: Option<ChatMessage>,
    /// Notes of the runtime behind turns, by turn number.
    notes: BTreeMap<u32, String>,
    /// Tokens of the whole history, nothing cut, as far as it was taken in.
    whole: usize,
    told: bool,
}

impl Window {
    /// A view before the first turn.
    pub fn new(context_tokens: u32, system: &str, tools: &[ToolSpec]) -> Self {
        let tool =
            |tool: &ToolSpec| tool.name.len() + tool.description.len() + tool.input_schema.to_string().len();
        let fixed = system.len() + tools.iter().map(tool).sum::<usize>();
        Self {
            limit: context_tokens as usize,
            longest_result: longest_result(context_tokens),
            fixed: fixed.div_ceil(BYTES_PER_TOKEN),
            head: 0,
            shown: VecDeque::new(),
            summary: None,
            notes: BTreeMap::new(),
            whole: 0,
            told: false,
        }
    }

    /// The messages of the next request.
    pub fn messages(&self, snapshot: &Snapshot, plan: &Plan) -> Vec<ChatMessage> {
        let mut messages = head(snapshot, plan);
        messages.extend(self.summary.clone());
        for turn in &self.shown {
            messages.extend(turn.messages.iter().cloned());
        }
        messages
    }

    /// Takes in a turn that has ended, with what the model is told about it besides. Gives the event to log when the view was
    /// cut for it.
    pub fn take_in(&mut self, snapshot: &Snapshot, index: usize, note: Option<String>) -> Option<NewEvent> {
        let turn = snapshot.turns.get(index)?;
        if let Some(note) = note {
            self.notes.insert(turn.number, note);
        }
        self.head = snapshot
            .plan
            .as_ref()
            .map_or(0, |plan| tokens_of(&head(snapshot, plan)));
        let shown = self.show(snapshot, index, false, self.longest_result);
        self.whole += shown.tokens + cut_away(snapshot, turn, self.longest_result);
        self.shown.push_back(shown);
        let before = self.tokens();
        let cleared = self.clear(snapshot);
        let dropped = self.drop_older_half(snapshot);
        self.squeeze(snapshot);
        let is_first = !self.told && self.whole > self.limit;
        if cleared + dropped == 0 && !is_first {
            return None;
        }
        self.told |= self.whole > self.limit;
        let metadata = json!({"event": "context_trimmed", "turn": turn.number, "history_tokens": self.whole,
            "tokens_before": before, "tokens_after": self.tokens(), "limit": self.limit,
            "results_cleared": cleared, "turns_dropped": dropped});
        Some(NewEvent::new(
            LogType::Info,
            "Context trimmed due to size",
            metadata,
        ))
    }

    /// Estimated tokens of the next request.
    fn tokens(&self) -> usize {
        let summary = self
            .summary
            .as_ref()
            .map_or(0, |summary| tokens_of(std::slice::from_ref(summary)));
        self.fixed + self.head + summary + self.turns(|turn| turn.tokens)
    }

    fn turns(&self, size: impl Fn(&Shown) -> usize) -> usize {
        self.shown.iter().map(size).sum()
    }

    fn show(&self, snapshot: &Snapshot, index: usize, cleared: bool, max_result: usize) -> Shown {
        let turn = &snapshot.turns[index];
        let mut messages = turn_messages(snapshot, turn, Form { max_result, cleared });
        messages.extend(
            self.notes
                .get(&turn.number)
                .map(|note| ChatMessage::User(note.clone())),
        );
        let tokens = tokens_of(&messages);
        Shown {
            index,
            tokens,
            full: tokens,
            results: tools_called(turn),
            messages,
            cleared,
        }
    }

    /// Replaces old results by notes when the view is nearly full and it is worth it; how many.
    fn clear(&mut self, snapshot: &Snapshot) -> usize {
        if self.tokens() <= self.limit / 4 * 3 {
            return 0;
        }
        let mut newer = 0;
        let mut old = vec![];
        for (place, turn) in self.shown.iter().enumerate().rev() {
            if newer >= KEPT_RESULTS && !turn.cleared {
                old.push((place, self.show(snapshot, turn.index, true, self.longest_result)));
            }
            newer += turn.results;
        }
        let room: usize = old
            .iter()
            .map(|(place, cleared)| self.shown[*place].tokens.saturating_sub(cleared.tokens))
            .sum();
        if room < (self.limit / WORTH_CLEARING).max(1) {
            return 0;
        }
        let count = old.iter().map(|(_, turn)| turn.results).sum();
        for (place, cleared) in old {
            let full = self.shown[place].full;
            self.shown[place] = Shown { full, ..cleared };
        }
        count
    }

    /// Above the limit the older half goes; how many turns.
    fn drop_older_half(&mut self, snapshot: &Snapshot) -> usize {
        let mut rest = self.tokens();
        let mut history = rest - self.turns(|turn| turn.tokens) + self.turns(|turn| turn.full);
        if history <= self.limit {
            return 0;
        }
        let mut dropped = 0;
        while history.max(rest) > self.limit / 2 && self.shown.len() > 1 {
            let Some(oldest) = self.shown.pop_front() else {
                break;
            };
            rest -= oldest.tokens;
            history -= oldest.full;
            dropped += 1;
        }
        if dropped > 0 {
            let first = self.shown.front().map_or(0, |turn| turn.index);
            self.summary = Some(ChatMessage::User(summary(snapshot, &snapshot.turns[..first])));
        }
        dropped
    }

    /// The last turn alone may be too long: then each of its results is cut shorter.
    fn squeeze(&mut self, snapshot: &Snapshot) {
        let tokens = self.tokens();
        let Some(last) = self.shown.back() else { return };
        if tokens <= self.limit || last.results == 0 {
            return;
        }
        let others = tokens - last.tokens;
        let room = self.limit.saturating_sub(others) / 2 * BYTES_PER_TOKEN;
        let each = (room / last.results).max(LEAST_RESULT_BYTES);
        let squeezed = self.show(snapshot, last.index, false, each);
        self.shown.pop_back();
        self.shown.push_back(squeezed);
    }
}

fn tools_called(turn: &Turn) -> usize {
    turn.actions
        .iter()
        .filter(|action| action.kind == ActionKind::Tool)
        .count()
}

/// Tokens of a turn's results beyond what is shown of them.
fn cut_away(snapshot: &Snapshot, turn: &Turn, longest: usize) -> usize {
    let results = (0u32..)
        .zip(&turn.actions)
        .filter_map(|(index, _)| snapshot.step(turn.number, index)?.result.as_ref());
    let beyond = results.map(|result| whole_text(result).len().saturating_sub(longest));
    beyond.sum::<usize>() / BYTES_PER_TOKEN
}

/// What the turns that are not shown have done, from what is stored of them: the same for everybody who counts.
fn summary(snapshot: &Snapshot, gone: &[Turn]) -> String {
    let mut calls: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut files: Vec<&str> = vec![];
    for turn in gone {
        for (index, action) in (0u32..).zip(&turn.actions) {
            let Some(tool) = action.tool_name.as_deref() else {
                continue;
            };
            let result = snapshot
                .step(turn.number, index)
                .and_then(|step| step.result.as_ref());
            let (all, good) = calls.entry(tool).or_default();
            *all += 1;
            *good += usize::from(result.is_some_and(|result| result.success));
            for file in result.iter().flat_map(|result| &result.artifacts) {
                files.retain(|known| *known != file.file_path);
                files.push(&file.file_path);
            }
        }
    }
    let last = gone.last().map_or(0, |turn| turn.number);
    let mut lines = vec![format!(
        "Turns 1 to {last} are not shown any more. What they did:"
    )];
    for (tool, (all, good)) in calls {
        lines.push(format!("- {tool}: called {all} times, {good} succeeded"));
    }
    if !files.is_empty() {
        let left_out = files.len().saturating_sub(NAMED_FILES);
        let more = if left_out > 0 {
            format!("{left_out} more, and ")
        } else {
            String::new()
        };
        lines.push(format!("- files written: {more}{}", files[left_out..].join(", ")));
    }
    let said: Vec<_> = snapshot
        .user_messages
        .iter()
        .filter(|message| (1..=last).contains(&message.after_turn))
        .collect();
    for message in &said[said.len().saturating_sub(KEPT_USER_MESSAGES)..] {
        let text = cut_middle(&message.content, KEPT_USER_BYTES);
        lines.push(format!("- the user said: {text}"));
    }
    lines.join("\n")
}
