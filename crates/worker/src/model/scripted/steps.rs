//! Plain instructions as a plan and a script: one phase per instruction as long as a plan may have so many, each
//! instruction a real tool call, a `phase_complete` between the phases.

use super::grammar::{Instruction, Understood, parse};
use super::script::{Script, credits_of};
use domain::plan::MAX_PHASES;
use serde_json::{Value, json};

/// Of the prompt at most this many characters become the plan's goal.
const MAX_GOAL_CHARS: usize = 200;

/// Said where a prompt holds no instruction.
const OFFLINE: &str = "This is the offline scripted model: no language model is called, and this prompt holds no \
    instruction it understands. It understands: `list files`; `create FILE` or `write FILE` (a name with an extension, \
    optionally `with TEXT` or `containing TEXT`); `read FILE`; run `COMMAND`; python `CODE`; `ask QUESTION`; \
    `wait N seconds`; joined by `and`, `then`, `,` or `;`. For a real model set ANTHROPIC_API_KEY, or OPENAI_API_KEY \
    (OPENAI_BASE_URL for any compatible endpoint), and LLM_PRIMARY_PROVIDER to anthropic or openai.";

/// The script of a plain prompt. `failed` are the calls that have failed so far, for the last words.
pub(super) fn script(prompt: &str, failed: &[String]) -> Script {
    let Understood {
        instructions,
        passed_over,
    } = parse(prompt);
    if instructions.is_empty() {
        return offline();
    }
    let closing = json!({"type": "task_complete", "message": last_words(&passed_over, failed)});
    let group_size = instructions.len().div_ceil(MAX_PHASES);
    let groups: Vec<&[Instruction]> = instructions.chunks(group_size).collect();
    let mut items = vec![];
    for (index, group) in groups.iter().enumerate() {
        items.extend(group.iter().flat_map(actions));
        let text = if index + 1 < groups.len() {
            json!({"type": "phase_complete", "message": format!("Phase {} is done.", index + 1)})
        } else {
            closing.clone()
        };
        items.push(text);
    }
    Script {
        items,
        plan: Some(plan(prompt, &groups)),
        closing: Some(closing),
    }
}

/// What was done, and what was not.
fn last_words(passed_over: &[String], failed: &[String]) -> String {
    if passed_over.is_empty() && failed.is_empty() {
        return "All instructions are carried out.".to_owned();
    }
    let done = if failed.is_empty() {
        "The instructions that were understood are carried out.".to_owned()
    } else {
        format!(
            "Not all instructions are carried out. Failed: {}.",
            failed.join("; ")
        )
    };
    if passed_over.is_empty() {
        return done;
    }
    let quoted: Vec<String> = passed_over.iter().map(|clause| format!("`{clause}`")).collect();
    format!("{done} Not understood: {}.", quoted.join(", "))
}

/// One message that ends the task.
fn offline() -> Script {
    let closing = json!({"type": "task_complete", "message": OFFLINE});
    let phase = Phase {
        name: "Explain the offline model".into(),
        ..Phase::default()
    };
    Script {
        items: vec![closing.clone()],
        plan: Some(plan_of("Explain what the offline model understands", vec![phase])),
        closing: Some(closing),
    }
}

fn actions(instruction: &Instruction) -> Vec<Value> {
    let tool = |input: Value| json!({"type": "tool", "tool_name": instruction.tool(), "tool_input": input});
    let action = match instruction {
        Instruction::ListFiles => tool(json!({"dirpath": ""})),
        Instruction::Write { file, text } => tool(json!({"filepath": file, "content": text})),
        Instruction::Read { file } => tool(json!({"filepath": file})),
        Instruction::Run { command } => tool(json!({"command": command})),
        Instruction::Python { code } => tool(json!({"language": "python", "code": code})),
        Instruction::Ask { question } => json!({"type": "request_input", "message": question}),
        Instruction::Wait { ms } => {
            let message = format!("Waited {}.", seconds(*ms));
            return vec![
                json!({"type": "sleep", "ms": ms}),
                json!({"type": "message", "message": message}),
            ];
        }
    };
    vec![action]
}

impl Instruction {
    /// The tool's name; waiting and asking need none.
    fn tool(&self) -> Option<&'static str> {
        match self {
            Self::ListFiles => Some("file_list"),
            Self::Write { .. } => Some("file_write"),
            Self::Read { .. } => Some("file_read"),
            Self::Run { .. } => Some("shell"),
            Self::Python { .. } => Some("code"),
            Self::Ask { .. } | Self::Wait { .. } => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::ListFiles => "List files".into(),
            Self::Write { file, .. } => format!("Write {file}"),
            Self::Read { file } => format!("Read {file}"),
            Self::Run { .. } => "Run a command".into(),
            Self::Python { .. } => "Run Python code".into(),
            Self::Ask { .. } => "Ask the user".into(),
            Self::Wait { ms } => format!("Wait {}", seconds(*ms)),
        }
    }
}

#[derive(Default)]
struct Phase {
    name: String,
    description: String,
    tools: Vec<&'static str>,
    credits: u32,
    outputs: Vec<String>,
}

fn plan(prompt: &str, groups: &[&[Instruction]]) -> Value {
    let phases = groups.iter().map(|group| phase(group)).collect();
    let goal: String = prompt.trim().chars().take(MAX_GOAL_CHARS).collect();
    plan_of(&goal, phases)
}

fn phase(group: &[Instruction]) -> Phase {
    let names: Vec<String> = group.iter().map(Instruction::name).collect();
    let description = names.join(", then ");
    let mut tools: Vec<&'static str> = group.iter().filter_map(Instruction::tool).collect();
    let credits = tools.iter().map(|tool| credits_of(tool)).sum();
    tools.sort_unstable();
    tools.dedup();
    let written = group.iter().filter_map(|instruction| match instruction {
        Instruction::Write { file, .. } => Some(file.clone()),
        _ => None,
    });
    Phase {
        name: match names.as_slice() {
            [one] => one.clone(),
            many => format!("{} and {} more", many[0], many.len() - 1),
        },
        description,
        tools,
        credits,
        outputs: written.collect(),
    }
}

fn plan_of(goal: &str, phases: Vec<Phase>) -> Value {
    let mut tools: Vec<&str> = phases.iter().flat_map(|phase| phase.tools.clone()).collect();
    tools.sort_unstable();
    tools.dedup();
    let total: u32 = phases.iter().map(|phase| phase.credits).sum();
    let phases: Vec<Value> = (1u32..)
        .zip(&phases)
        .map(|(number, phase)| {
            let dependencies: Vec<u32> = (number > 1).then(|| number - 1).into_iter().collect();
            json!({
                "phase_number": number,
                "name": phase.name,
                "description": phase.description,
                "required_capabilities": phase.tools,
                "estimated_credits": phase.credits,
                "dependencies": dependencies,
                "expected_outputs": phase.outputs,
            })
        })
        .collect();
    json!({
        "goal": goal,
        "total_estimated_credits": total,
        "total_estimated_duration_minutes": phases.len(),
        "required_capabilities": tools,
        "risks": [],
        "phases": phases,
    })
}

/// `2 seconds`, `1 second`, `0.5 seconds`.
fn seconds(ms: u64) -> String {
    let number = ms as f64 / 1000.0;
    let unit = if ms == 1000 { "second" } else { "seconds" };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Plan;

    #[test]
    fn every_plan_made_of_a_prompt_is_valid() {
        let many = |n: usize| vec!["read a.txt"; n].join(" and ");
        for prompt in [
            "list files",
            "hello",
            "",
            "create a.md with x; python `1`; ask why; wait 2 seconds",
        ] {
            Plan::from_value(&script(prompt, &[]).plan.unwrap()).unwrap();
        }
        for (count, phases) in [(1, 1), (15, 15), (16, 8), (31, 11), (200, 15)] {
            let script = script(&many(count), &[]);
            let plan = Plan::from_value(script.plan.as_ref().unwrap()).unwrap();
            assert_eq!(plan.phases.len(), phases, "{count}");
            assert!((plan.total_estimated_credits - count as f64).abs() < 0.001);
            assert_eq!(script.items.len(), count + phases);
        }
    }

    #[test]
    fn the_last_words_say_what_was_not_understood_and_what_failed() {
        let said = |prompt: &str, failed: &[&str]| {
            let failed: Vec<String> = failed.iter().map(|call| (*call).to_owned()).collect();
            let script = script(prompt, &failed);
            assert_eq!(script.items.last(), script.closing.as_ref(), "{prompt}");
            script.closing.unwrap()["message"].clone()
        };
        let understood = "The instructions that were understood are carried out. Not understood:";
        for (prompt, failed, words) in [
            (
                "list files",
                vec![],
                "All instructions are carried out.".to_owned(),
            ),
            (
                "create a.txt, b.txt and c.txt",
                vec![],
                format!("{understood} `b.txt`, `c.txt`."),
            ),
            (
                "list files and do magic",
                vec![],
                format!("{understood} `do magic`."),
            ),
            (
                "read test.txt",
                vec!["file_read (File not found: test.txt)"],
                "Not all instructions are carried out. Failed: file_read (File not found: test.txt)."
                    .to_owned(),
            ),
            (
                "fly; read a.txt",
                vec!["file_read (x)"],
                "Not all instructions are carried out. Failed: file_read (x). Not understood: `fly`."
                    .to_owned(),
            ),
        ] {
            assert_eq!(said(prompt, &failed), words, "{prompt}");
        }
    }

    #[test]
    fn phases_say_what_they_need_and_make() {
        let plan = script("list files and create a test.txt file", &[]).plan.unwrap();
        assert_eq!(plan["total_estimated_credits"], 2);
        assert_eq!(plan["phases"][1]["name"], "Write test.txt");
        assert_eq!(plan["phases"][1]["expected_outputs"], json!(["test.txt"]));
        assert_eq!(plan["phases"][1]["required_capabilities"], json!(["file_write"]));
        assert_eq!(plan["phases"][1]["dependencies"], json!([1]));
    }
}
