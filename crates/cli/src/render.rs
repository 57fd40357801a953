//! Events and runs as lines for people.

use crate::console::{Console, Style, harmless, one_line};
use serde_json::Value;

/// Longest shown argument or result of a tool, in characters.
const MAX_SHOWN: usize = 100;

/// What a plan says about its phases; names are shown with the progress lines.
#[derive(Debug, Clone, Default)]
pub struct PhaseNames(Vec<String>);

impl PhaseNames {
    /// From `agent_runs.plan`; anything else gives no names.
    pub fn of_plan(plan: &Value) -> Self {
        let phases = plan["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self(
            phases
                .iter()
                .map(|phase| phase["name"].as_str().unwrap_or_default().to_owned())
                .collect(),
        )
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn line(&self, phase: u64, total: u64) -> String {
        let name = usize::try_from(phase)
            .ok()
            .and_then(|phase| self.0.get(phase.checked_sub(1)?))
            .map(|name| format!("  {}", one_line(name, MAX_SHOWN)))
            .unwrap_or_default();
        format!("phase {phase}/{total}{name}")
    }
}

/// One event of the default form as a line, or `None` for those that say nothing to people.
pub fn event_line(console: Console, event: &Value, phases: &PhaseNames) -> Option<String> {
    let time = event["timestamp"].as_str().unwrap_or_default();
    let clock = console.paint(Style::Dim, time.get(11..19).unwrap_or(time));
    let (style, text) = event_text(event, phases)?;
    Some(format!("{clock}  {}", console.paint(style, &text)))
}

fn event_text(event: &Value, phases: &PhaseNames) -> Option<(Style, String)> {
    let metadata = &event["metadata"];
    let message = harmless(event["message"].as_str().unwrap_or_default());
    if event["type"] == "complete" {
        let status = event["status"].as_str().unwrap_or("ended");
        return Some((status_style(status), format!("{status}: {message}")));
    }
    let tool = metadata["tool_name"].as_str().unwrap_or("tool");
    Some(match event["log_type"].as_str().unwrap_or_default() {
        "state_transition" => status_line(metadata, phases),
        "phase_advance" => {
            let number = |key: &str| metadata[key].as_u64().unwrap_or_default();
            let line = phases.line(number("to_phase"), number("total_phases"));
            (Style::Bold, format!("▸ {line}"))
        }
        "tool_success" => (Style::Green, format!("✓ {tool}{}", result_text(metadata))),
        "tool_error" => (Style::Red, format!("✗ {}", one_line(&message, 2 * MAX_SHOWN))),
        "user_input_required" => (Style::Yellow, format!("? {message}")),
        "warning" => (Style::Yellow, format!("! {message}")),
        "error" => (Style::Red, format!("✗ {message}")),
        "success" => (Style::Green, format!("✓ {message}")),
        _ => return info_line(metadata, &message),
    })
}

fn status_line(metadata: &Value, phases: &PhaseNames) -> (Style, String) {
    let to = metadata["to_status"].as_str().unwrap_or("?");
    let from = metadata["from_status"].as_str().unwrap_or("?");
    let total = metadata["total_phases"].as_u64().unwrap_or_default();
    if from == "planning" && to == "executing" && total > 0 {
        let phase = metadata["current_phase"].as_u64().unwrap_or_default().max(1);
        return (Style::Bold, format!("▸ {}", phases.line(phase, total)));
    }
    (Style::Dim, format!("{from} → {to}"))
}

fn info_line(metadata: &Value, message: &str) -> Option<(Style, String)> {
    match metadata["event"].as_str() {
        Some("tool_call") => {
            let tool = metadata["tool_name"].as_str().unwrap_or("tool");
            let input = one_line(&metadata["tool_input"].to_string(), MAX_SHOWN);
            Some((Style::Cyan, format!("→ {tool} {input}")))
        }
        // The file is told by the tool's own result and by the summary.
        Some("message") if metadata["role"] == "user" => Some((Style::Plain, format!("you: {message}"))),
        Some("message") => Some((Style::Plain, format!("agent: {message}"))),
        _ if message.is_empty() => None,
        _ => Some((Style::Dim, message.to_owned())),
    }
}

fn result_text(metadata: &Value) -> String {
    let duration = metadata["duration_ms"]
        .as_u64()
        .map(|ms| format!("  {ms} ms"))
        .unwrap_or_default();
    let output = &metadata["output"];
    let shown = ["stdout", "content", "message", "filepath"]
        .iter()
        .find_map(|key| output[*key].as_str().filter(|text| !text.trim().is_empty()))
        .map(|text| format!("  {}", one_line(text.trim(), MAX_SHOWN)))
        .unwrap_or_default();
    format!("{duration}{shown}")
}

/// The colour of a status.
pub fn status_style(status: &str) -> Style {
    match status {
        "completed" => Style::Green,
        "failed" | "timeout" => Style::Red,
        "cancelled" | "waiting_user" | "paused" => Style::Yellow,
        "created" => Style::Dim,
        _ => Style::Cyan,
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub fn count(number: u64, word: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {word}{plural}")
}

/// Columns padded to their widest cell; the last one is not padded.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(event: Value) -> Option<String> {
        let phases = PhaseNames::of_plan(&json!({"phases": [{"name": "Look"}, {"name": "Write"}]}));
        event_line(Console::plain(), &event, &phases)
    }

    #[test]
    fn each_phase_has_its_progress_line() {
        let start = json!({"type": "log", "timestamp": "2026-11-20T17:00:02.000000Z", "log_type": "state_transition", "message": "",
            "metadata": {"from_status": "planning", "to_status": "executing", "current_phase": 1, "total_phases": 2}});
        assert_eq!(line(start).unwrap(), "17:00:02  ▸ phase 1/2  Look");
        let next = json!({"type": "log", "timestamp": "2026-11-20T17:00:03.000000Z", "log_type": "phase_advance", "message": "",
            "metadata": {"from_phase": 1, "to_phase": 2, "total_phases": 2}});
        assert_eq!(line(next).unwrap(), "17:00:03  ▸ phase 2/2  Write");
    }

    #[test]
    fn tools_and_the_end_are_told_in_one_line_each() {
        let done = json!({"log_type": "tool_success", "metadata": {"tool_name": "shell", "duration_ms": 4, "output": {"stdout": "a\nb\n"}}});
        assert_eq!(line(done).unwrap(), "  ✓ shell  4 ms  a…");
        let end = json!({"type": "complete", "status": "failed", "message": "no\u{1b}[2J"});
        assert_eq!(line(end).unwrap(), "  failed: no\u{fffd}[2J");
    }

    #[test]
    fn sizes_and_tables_are_readable() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(1536), "1.5 KiB");
        let rows = vec![
            vec!["a".to_owned(), "bb".to_owned()],
            vec!["ccc".to_owned(), String::new()],
        ];
        assert_eq!(table(&rows), ["a    bb", "ccc"]);
    }
}
