//! A script: the replies in order, and the extra items that stand before them.

use serde_json::{Value, json};
use std::time::Duration;

/// The longest sleep of a script (milliseconds): one day.
const MAX_SLEEP_MS: u64 = 24 * 3600 * 1000;

/// Credits of a tool's step, as far as it works (AA-85).
pub(super) fn credits_of(tool: &str) -> u32 {
    match tool {
        "shell" | "search" | "file_read" | "file_write" | "file_list" => 1,
        "code" | "connector" => 2,
        "browser" => 3,
        _ => 0,
    }
}

/// The items as given, and the planner's reply when the script has one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    pub(super) items: Vec<Value>,
    pub(super) plan: Option<Value>,
    /// What is said in every turn after the last item; the usual end when there is none.
    pub(super) closing: Option<Value>,
}

/// Something that happens before a reply and is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Sleep(Duration),
    /// The call fails while the job's attempt is at most `attempts`.
    Error {
        status: u16,
        attempts: u32,
        retry_after: Option<Duration>,
    },
}

/// One turn's place in the script; no item means that the script is over.
#[derive(Debug, PartialEq)]
pub(super) struct Place<'a> {
    pub(super) extras: Vec<Extra>,
    pub(super) item: Option<&'a Value>,
}

impl Script {
    /// An object with a list `script` and an optional `plan`.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        Some(Self {
            items: value.get("script")?.as_array()?.clone(),
            plan: value.get("plan").filter(|plan| !plan.is_null()).cloned(),
            closing: None,
        })
    }

    /// The prompt itself, when it is such an object.
    pub(super) fn from_prompt_json(prompt: &str) -> Option<Self> {
        let value = serde_json::from_str(prompt.trim()).ok()?;
        Self::from_value(&value)
    }

    /// The planner's reply: `plan` as it stands (a text is given without quotes), else one valid phase.
    pub(super) fn plan_text(&self) -> String {
        match &self.plan {
            Some(Value::String(text)) => text.clone(),
            Some(plan) => plan.to_string(),
            None => self.default_plan().to_string(),
        }
    }

    /// The `turn`-th item that is no extra, with the extras right before it; turns count from 1. Extras after the last
    /// item belong to the turn that ends the task.
    pub(super) fn place(&self, turn: u32) -> Place<'_> {
        let mut current = 1;
        let mut extras = vec![];
        for item in &self.items {
            if let Some(extra) = extra(item) {
                extras.push(extra);
            } else if current == turn.max(1) {
                return Place {
                    extras,
                    item: Some(item),
                };
            } else {
                current += 1;
                extras.clear();
            }
        }
        if current != turn {
            extras.clear();
        }
        Place { extras, item: None }
    }

    fn default_plan(&self) -> Value {
        let mut tools: Vec<&str> = vec![];
        let mut credits = 0;
        let actions = self.items.iter().flat_map(|item| match item {
            Value::Array(actions) => actions.as_slice(),
            single => std::slice::from_ref(single),
        });
        for tool in actions.filter_map(|action| action["tool_name"].as_str()) {
            credits += credits_of(tool);
            if !tools.contains(&tool) {
                tools.push(tool);
            }
        }
        json!({
            "goal": "Follow the script",
            "total_estimated_credits": credits,
            "total_estimated_duration_minutes": 1,
            "required_capabilities": tools,
            "risks": [],
            "phases": [{
                "phase_number": 1,
                "name": "Follow the script",
                "description": format!("{} scripted items", self.items.len()),
                "required_capabilities": tools,
                "estimated_credits": credits,
                "dependencies": [],
                "expected_outputs": [],
            }],
        })
    }
}

fn extra(item: &Value) -> Option<Extra> {
    match item["type"].as_str()? {
        "sleep" => {
            let ms = item["ms"].as_u64().unwrap_or_default().min(MAX_SLEEP_MS);
            Some(Extra::Sleep(Duration::from_millis(ms)))
        }
        "error" => Some(Extra::Error {
            status: item["status"]
                .as_u64()
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or(503),
            // Without a number it fails at every attempt.
            attempts: item["attempts"]
                .as_u64()
                .map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            retry_after: item["retry_after"]
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        }),
        _ => None,
    }
}
