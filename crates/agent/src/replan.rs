//! `replan`: the model changes the rest of its plan. Phases that are done stay; the present one and those after it are replaced.
//!
//! It is a call like any other, with a step and a result, whose whole effect lies in what is stored of the run: the plan, its
//! version, and an event with the reason and the difference.

use crate::ports::ToolSpec;
use crate::snapshot::Snapshot;
use crate::step::called;
use crate::supervisor::DueTool;
use domain::{Change, Phase, Plan, ToolResult};
use serde::Deserialize;
use serde_json::{Value, json};

/// Name of the tool.
pub const REPLAN: &str = "replan";

#[derive(Deserialize)]
struct Input {
    reason: String,
    phases: Vec<NewPhase>,
}

#[derive(Deserialize)]
struct NewPhase {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required_capabilities: Vec<String>,
    #[serde(default)]
    estimated_credits: f64,
    #[serde(default)]
    expected_outputs: Vec<String>,
}

/// As told to the model.
pub(crate) fn spec() -> ToolSpec {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let phase = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "description": {"type": "string"},
            "required_capabilities": texts,
            "estimated_credits": {"type": "number", "minimum": 0},
            "expected_outputs": texts,
        },
        "required": ["name"],
    });
    ToolSpec {
        name: REPLAN.to_owned(),
        description: "Replace the present phase of the plan and all after it, with the reason.".to_owned(),
        input_schema: json!({
            "type": "object",
            "properties": {"reason": {"type": "string"}, "phases": {"type": "array", "items": phase, "minItems": 1}},
            "required": ["reason", "phases"],
        }),
    }
}

/// The result of a call of `replan`; nothing for any other.
pub(crate) fn result_within(snapshot: &Snapshot, due: &DueTool) -> Option<ToolResult> {
    if due.call.tool_name.as_deref() != Some(REPLAN) {
        return None;
    }
    Some(match revised(snapshot, due) {
        Ok((plan, _)) => {
            let phases = plan.total_phases();
            let output = json!({"replanned": true, "phases": phases, "current_phase": due.phase});
            ToolResult::ok(output, 0.0)
        }
        Err(fault) => ToolResult::failed(fault, 0.0),
    })
}

/// Takes the new plan into the snapshot; gives it as the change to store.
pub(crate) fn change(snapshot: &mut Snapshot, due: &DueTool, result: &ToolResult) -> Option<Change> {
    if due.call.tool_name.as_deref() != Some(REPLAN) || !result.success {
        return None;
    }
    let (plan, reason) = revised(snapshot, due).ok()?;
    let difference = plan.difference(snapshot.plan.as_ref()?);
    snapshot.plan = Some(plan.clone());
    Some(Change::PlanRevised {
        plan,
        reason,
        difference,
    })
}

fn revised(snapshot: &Snapshot, due: &DueTool) -> Result<(Plan, String), String> {
    let (_, input) = called(due);
    let Input { reason, phases } =
        Input::deserialize(&input).map_err(|fault| format!("Invalid input: {fault}"))?;
    if reason.trim().is_empty() || phases.is_empty() {
        return Err("Invalid input: replan needs a reason and at least one phase".to_owned());
    }
    let mut plan = snapshot
        .plan
        .clone()
        .ok_or("Invalid input: there is no plan yet")?;
    plan.phases.retain(|phase| phase.phase_number < due.phase);
    plan.phases
        .extend((due.phase..).zip(phases).map(|(number, phase)| Phase {
            phase_number: number,
            name: phase.name,
            description: phase.description,
            required_capabilities: phase.required_capabilities,
            estimated_credits: phase.estimated_credits,
            dependencies: vec![],
            expected_outputs: phase.expected_outputs,
        }));
    plan.total_estimated_credits = plan.phases.iter().map(|phase| phase.estimated_credits).sum();
    plan.validate()
        .map_err(|fault| format!("This plan cannot be used: {fault}"))?;
    Ok((plan, reason))
}

/// The paths among what a phase is to make: a name with an extension, or one below a directory, perhaps in quotes. Anything else
/// is words, also a pattern of names.
pub(crate) fn expected_files(phase: &Phase) -> Vec<&str> {
    let is_path = |text: &&str| {
        let name = text.rsplit('/').next().unwrap_or_default();
        let extension = name
            .rsplit_once('.')
            .map(|(stem, end)| !stem.is_empty() && !end.is_empty());
        let is_pattern = |letter: char| letter.is_whitespace() || "*?<>{}[]|`".contains(letter);
        let is_one_word = !text.is_empty() && !text.chars().any(is_pattern);
        let has_extension = extension.unwrap_or(false) && name.rsplit('.').all(|part| part.len() <= 64);
        is_one_word && !text.contains("://") && !text.ends_with('/') && (has_extension || text.contains('/'))
    };
    let quotes = |letter: char| "`\"'".contains(letter);
    let texts = phase.expected_outputs.iter();
    texts
        .map(|text| text.trim().trim_matches(quotes))
        .filter(is_path)
        .collect()
}

/// The number of the phase a call belongs to, and the files that phase is to make.
pub(crate) fn files_of_phase(snapshot: &Snapshot, number: u32) -> Vec<String> {
    let phases = snapshot.plan.iter().flat_map(|plan| &plan.phases);
    phases
        .filter(|phase| phase.phase_number == number)
        .flat_map(expected_files)
        .map(|path| {
            path.trim_start_matches("/workspace/")
                .trim_start_matches("./")
                .to_owned()
        })
        .collect()
}

/// Whether a result says that outputs are missing.
pub(crate) fn missing(result: &ToolResult) -> Option<&Vec<Value>> {
    result
        .output
        .get("missing")?
        .as_array()
        .filter(|missing| !missing.is_empty())
}
