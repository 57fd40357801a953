//! What goes over the wire: frames of streams, and prompts that are scripts.

use std::collections::HashMap;

use serde_json::{Value, json};
use testkit::Frame;

pub(crate) fn ids(frames: &[Frame]) -> Vec<i64> {
    frames.iter().filter_map(|frame| frame.id).collect()
}

/// Each step has exactly one `tool_call`, then exactly one `tool_result`.
pub(crate) fn assert_tools_are_paired(named: &[Frame]) {
    let mut open: HashMap<String, usize> = HashMap::new();
    for frame in named {
        let kind = frame.event.as_deref().unwrap_or_default();
        if kind != "tool_call" && kind != "tool_result" {
            continue;
        }
        let step = frame.json()["step_id"].as_str().unwrap().to_owned();
        let seen = open.entry(step.clone()).or_default();
        let expected = usize::from(kind == "tool_result");
        assert_eq!(*seen, expected, "{kind} of {step} out of order or repeated");
        *seen += 1;
    }
    assert!(
        open.values().all(|&seen| seen == 2),
        "a step without result: {open:?}"
    );
}

/// A prompt that is a script.
pub(crate) fn script(items: &[Value]) -> String {
    json!({ "script": items }).to_string()
}

pub(crate) fn tool(name: &str, input: Value) -> Value {
    json!({"type": "tool", "tool_name": name, "tool_input": input})
}

pub(crate) fn message(text: &str) -> Value {
    tool("message", json!({"message": text}))
}

pub(crate) fn write(path: &str, text: &str) -> Value {
    tool("file_write", json!({"filepath": path, "content": text}))
}

pub(crate) fn shell(command: &str) -> Value {
    tool("shell", json!({"command": command}))
}

pub(crate) fn sleep_ms(ms: u64) -> Value {
    json!({"type": "sleep", "ms": ms})
}

/// How many processes have this argument in their command line exactly.
pub(crate) fn processes_with(argument: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let matches = |line: &Vec<u8>| {
        line.split(|&byte| byte == 0)
            .any(|word| word == argument.as_bytes())
    };
    entries.filter_map(line).filter(matches).count()
}
