//! A bench for runs that ask: a system outside that notes what it is told, and a store that plays back what was committed, with a
//! person's decisions in between.

use super::*;
use agent::gate::Gate;
use agent::ports::{Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest};
use agent::snapshot::UserMessage;
use domain::Labels;
use domain::interrupt::{InterruptDecision, InterruptKind, InterruptStatus, KnownInterrupt, NewInterrupt};

/// What a call of the world gives, by tool name.
pub(super) type Outputs = Vec<(&'static str, Value)>;

/// Connectors, a browser, a search and an MCP server, as far as labels and notes go.
#[derive(Default)]
pub(super) struct World {
    pub(super) outputs: Outputs,
    /// Description of a tool of an MCP server, told to the model.
    pub(super) description: Option<String>,
    pub(super) calls: Mutex<Vec<(String, Value)>>,
    /// Tools that are not set up.
    pub(super) missing: Vec<&'static str>,
    /// Tools whose own answer says the same, although they were asked.
    pub(super) imitates: Vec<&'static str>,
}

const READS: Labels = Labels {
    reads_untrusted: true,
    reads_private: true,
    acts_outside: false,
};
const ACTS: Labels = Labels {
    reads_untrusted: false,
    reads_private: false,
    acts_outside: true,
};
const BROWSES: Labels = Labels {
    reads_untrusted: true,
    reads_private: false,
    acts_outside: true,
};

fn missing(tool: &str) -> ToolResult {
    ToolResult::failed(format!("{tool} is not configured: set A_KEY"), 0.0)
}

impl RemoteTools for World {
    fn specs(&self) -> Vec<ToolSpec> {
        let spec = |description: &String| ToolSpec {
            name: "mcp__notes__find".to_owned(),
            description: description.clone(),
            input_schema: json!({"type": "object"}),
        };
        self.description.iter().map(spec).collect()
    }

    fn labels_of(&self, tool_name: &str, tool_input: &Value) -> Labels {
        let operation = tool_input["operation"].as_str().unwrap_or_default();
        match tool_name {
            "connector" if operation.starts_with("get_") || operation.starts_with("list_") => READS,
            "connector" => ACTS,
            "browser" | "fetch" | "search" => BROWSES,
            "mcp__notes__find" => READS,
            _ => READS.union(ACTS),
        }
    }

    fn effect_of(&self, tool_name: &str, _: &Value) -> Option<Effect> {
        let known = ["connector", "browser", "fetch", "search"].contains(&tool_name);
        (known || tool_name.starts_with("mcp__")).then_some(Effect::Idempotent)
    }

    fn refusal(&self, call: &Call<'_>) -> Option<ToolResult> {
        self.missing
            .contains(&call.tool_name)
            .then(|| missing(call.tool_name))
    }

    async fn call(&self, call: &Call<'_>, _: &CancellationToken) -> Result<ToolResult, ToolError> {
        if self.imitates.contains(&call.tool_name) {
            return Ok(missing(call.tool_name));
        }
        let made = (call.tool_name.to_owned(), call.tool_input.clone());
        self.calls.lock().unwrap().push(made);
        let output = self.outputs.iter().find(|(name, _)| *name == call.tool_name);
        Ok(ToolResult::ok(
            output.map_or_else(|| json!({"done": true}), |(_, output)| output.clone()),
            1.0,
        ))
    }
}

/// Prints the same, whatever it runs.
pub(super) struct Prints(pub(super) String);

impl Sandbox for Prints {
    async fn run(
        &self,
        _: &SandboxRequest,
        _: &impl SandboxEvents,
        _: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        Ok(SandboxOutput {
            stdout: self.0.clone(),
            stderr: String::new(),
            truncated: false,
            exit_code: Some(0),
            timed_out: false,
            ended_by: None,
            duration_ms: 1,
            artifacts: vec![],
            unkept: None,
            ephemeral_workspace: false,
            changes: vec![],
            warnings: vec![],
        })
    }
}

/// A run with its store.
pub(super) struct Gated {
    pub(super) world: World,
    pub(super) sandbox: Prints,
    pub(super) workspace: MemoryWorkspace,
    pub(super) run: Snapshot,
    /// Interrupts as they were opened.
    pub(super) opened: Vec<NewInterrupt>,
    pub(super) changes: Vec<Change>,
    pub(super) on_unknown: OnUnknown,
}

impl Gated {
    pub(super) fn new(world: World, policy: &Value) -> Self {
        let mut run = snapshot();
        run.gate.policy = domain::Policy::parse(policy).unwrap();
        Self {
            world,
            sandbox: Prints("hello".to_owned()),
            workspace: MemoryWorkspace::default(),
            run,
            opened: vec![],
            changes: vec![],
            on_unknown: OnUnknown::Ask,
        }
    }

    /// One drive, as a worker would do it after a claim; nothing is left of it but what was committed.
    pub(super) async fn drive<M: Model>(&mut self, model: &M) -> Outcome {
        let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
        let log = MemoryLog::default();
        let driver = Driver {
            model,
            tools: Router {
                workspace: &self.workspace,
                sandbox: &self.sandbox,
                remote: &self.world,
            },
            log: &log,
            clock: &clock,
            limits: Limits::default(),
            on_unknown: self.on_unknown,
            epoch: 7,
            withheld: Mutex::default(),
            soft: CancellationToken::new(),
            pause: CancellationToken::new(),
            cancel: CancellationToken::new(),
        };
        let outcome = driver.drive(self.run.clone()).await;
        for change in log.changes() {
            self.store(change);
        }
        outcome
    }

    fn store(&mut self, change: Change) {
        let run = &mut self.run;
        match &change {
            Change::Status { to, .. } => run.status = *to,
            Change::PlanStored { plan } => run.plan = Some(plan.clone()),
            Change::TurnStored { turn, .. } if turn.number > 0 => run.turns.push(turn.clone()),
            Change::StepStarted(step) => run.steps.push(StoredStep {
                id: step.id,
                turn: step.turn,
                action: step.action,
                status: StepStatus::Running,
                result: None,
                started_here: false,
            }),
            Change::StepSettled {
                step_id,
                status,
                result,
                ..
            } => {
                let step = run.steps.iter_mut().find(|step| step.id == *step_id).unwrap();
                step.status = *status;
                step.result = Some(result.clone());
            }
            Change::InterruptOpened(new) => {
                self.opened.push((**new).clone());
                run.gate.interrupts.push(KnownInterrupt {
                    id: new.id,
                    kind: new.kind,
                    turn: new.turn,
                    action: new.action,
                    hash: new.hash.clone(),
                    status: InterruptStatus::Open,
                    decision: None,
                    response: Value::Null,
                });
            }
            _ => {}
        }
        self.changes.push(change);
    }

    /// A person decides about everything that is open.
    pub(super) fn decide(&mut self, decision: InterruptDecision, response: &Value) {
        for asked in &mut self.run.gate.interrupts {
            if asked.status == InterruptStatus::Open {
                asked.status = InterruptStatus::Resolved;
                asked.decision = Some(decision);
                asked.response = response.clone();
            }
        }
        self.run.status = RunStatus::Executing;
    }

    pub(super) fn open(&self) -> usize {
        let asked = self.run.gate.interrupts.iter();
        asked
            .filter(|asked| asked.status == InterruptStatus::Open)
            .count()
    }

    pub(super) fn calls(&self) -> Vec<(String, Value)> {
        self.world.calls.lock().unwrap().clone()
    }

    /// Errors of the settled steps, in order.
    pub(super) fn errors(&self) -> Vec<String> {
        let results = self.run.steps.iter().filter_map(|step| step.result.as_ref());
        results.filter_map(|result| result.error.clone()).collect()
    }

    pub(super) fn last_output(&self) -> Value {
        self.run
            .steps
            .last()
            .unwrap()
            .result
            .as_ref()
            .unwrap()
            .output
            .clone()
    }

    pub(super) fn waiting_for(&self) -> Value {
        let waits = self.changes.iter().rev().find_map(|change| match change {
            Change::Waiting(what) => what.clone(),
            _ => None,
        });
        waits.unwrap_or_default()
    }

    pub(super) fn gate(&mut self) -> &mut Gate {
        &mut self.run.gate
    }

    pub(super) fn hear(&mut self, content: &str) {
        self.run.user_messages.push(UserMessage {
            after_turn: self.run.turns.len() as u32,
            content: content.to_owned(),
        });
    }

    pub(super) fn kinds(&self) -> Vec<InterruptKind> {
        self.opened.iter().map(|asked| asked.kind).collect()
    }
}
