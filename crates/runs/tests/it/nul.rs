//! U+0000 in whatever a change brings: Postgres takes none, and no commit may fail by it.

use crate::support::{Store, settled, step, step_id, store, to, turn};
use domain::action::{Turn, Usage};
use domain::change::{Change, NewMessage, NewStep, RunError};
use domain::clock::{Ids as _, SystemIds};
use domain::command::Release;
use domain::event::NewEvent;
use domain::ids::{InterruptId, MessageId, RunId, StepId};
use domain::interrupt::{InterruptKind, InterruptStatus, NewInterrupt};
use domain::plan::{Phase, Plan, PlanDifference};
use domain::policy::Labels;
use domain::status::RunStatus;
use domain::tool::{ArtifactRef, Effect, FileChange, ToolResult};
use domain::waiting::RetryCause;
use runs::{AppendEvent, EventWindow, NewRuntimeRun};
use serde_json::json;

const NUL: &str = "a\0b";
const SHOWN: &str = "a\u{fffd}b";

fn text() -> String {
    NUL.to_owned()
}

fn plan() -> Plan {
    let phase = Phase {
        phase_number: 1,
        name: text(),
        description: text(),
        required_capabilities: vec![text()],
        estimated_credits: 0.0,
        dependencies: vec![],
        expected_outputs: vec![text()],
    };
    Plan {
        goal: text(),
        total_estimated_credits: 0.0,
        total_estimated_duration_minutes: 0.0,
        required_capabilities: vec![text()],
        risks: vec![text()],
        phases: vec![phase],
    }
}

fn reply(number: u32) -> Change {
    let Change::TurnStored { mut turn, usage, .. } = turn(number) else {
        panic!("a turn");
    };
    for action in &mut turn.actions {
        action.tool_name = Some(text());
        action.tool_input = Some(json!({NUL: [NUL]}));
        action.reasoning = Some(text());
        action.message = Some(text());
        action.call_id = Some(text());
        action.refused = Some(text());
    }
    Change::TurnStored {
        turn: Turn {
            raw: json!({NUL: NUL}),
            fault: Some(text()),
            ..turn
        },
        model: text(),
        provider: text(),
        usage,
    }
}

fn begun(id: StepId, turn: u32) -> Change {
    Change::StepStarted(NewStep {
        id,
        phase_number: 1,
        turn,
        action: 0,
        tool_name: text(),
        tool_input: json!({NUL: {NUL: NUL}}),
        effect: Effect::Idempotent,
    })
}

fn result() -> ToolResult {
    let file = ArtifactRef {
        file_path: text(),
        file_size: 1,
        content_hash: "aa".to_owned(),
        mime_type: text(),
        storage_bucket: "b".to_owned(),
        storage_key: text(),
    };
    ToolResult {
        output: json!({NUL: NUL}),
        success: false,
        error: Some(text()),
        credits_used: 0.0,
        changes: vec![FileChange::stored(&file, false), FileChange::deleted(NUL)],
        artifacts: vec![file],
        memory: vec![json!({NUL: NUL})],
        refused: false,
    }
}

fn asked(id: InterruptId, turn: u32) -> Change {
    Change::InterruptOpened(Box::new(NewInterrupt {
        id,
        kind: InterruptKind::Tool,
        turn,
        action: 0,
        step_id: None,
        tool_name: Some(text()),
        tool_input: Some(json!({NUL: NUL})),
        hash: Some("h".to_owned()),
        labels: Labels::default(),
        message: text(),
        reason: text(),
        response_schema: json!({NUL: NUL}),
        expires_at: None,
    }))
}

/// Every change that carries a text, in an order that the state machine allows.
fn every_change(run: RunId) -> Vec<Vec<Change>> {
    let (id, question) = (step_id(), MessageId(SystemIds.uuid()));
    let interrupt = InterruptId(SystemIds.uuid());
    vec![
        vec![
            reply(0),
            Change::PlanStored { plan: plan() },
            to(RunStatus::Executing),
        ],
        vec![Change::Log(NewEvent::warning(NUL, json!({NUL: [NUL]})))],
        vec![Change::CallBilled {
            key: format!("{run}:{NUL}"),
            model: text(),
            provider: text(),
            usage: Usage::default(),
        }],
        vec![reply(1), begun(id, 1)],
        vec![settled(id, result())],
        vec![Change::PlanRevised {
            plan: plan(),
            reason: text(),
            difference: PlanDifference {
                added: vec![text()],
                removed: vec![text()],
                changed: vec![text()],
            },
        }],
        vec![Change::MessageAdded(NewMessage {
            id: MessageId(SystemIds.uuid()),
            role: "assistant",
            content: text(),
            step_id: Some(id),
            silent: false,
        })],
        vec![asked(interrupt, 2)],
        vec![Change::InterruptClosed {
            id: interrupt,
            status: InterruptStatus::Resolved,
            decision: None,
            response: json!({NUL: NUL}),
        }],
        vec![Change::InputRequested {
            message_id: question,
            question: text(),
        }],
        vec![Change::Waiting(Some(json!({"kind": NUL, NUL: NUL})))],
        vec![Change::Status {
            to: RunStatus::Failed,
            error: Some(RunError::new(NUL, NUL)),
        }],
    ]
}

impl Store {
    /// Everything stored of a run, as one text.
    async fn all_of(&self, run: RunId) -> String {
        let tables = [
            "agent_turns",
            "agent_steps",
            "agent_messages",
            "agent_artifacts",
            "agent_interrupts",
            "agent_task_logs",
            "token_records",
        ];
        let mut parts = vec![
            self.text(&format!("SELECT r::text FROM agent_runs r WHERE id = '{run}'"))
                .await,
        ];
        for table in tables {
            let sql = format!(
                "SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t WHERE run_id = '{run}'"
            );
            let rows = self.text(&sql).await;
            assert!(rows.contains(SHOWN), "{table}: {rows}");
            parts.push(rows);
        }
        let twins =
            format!("SELECT string_agg(payload::text, ' ') FROM runtime.run_events WHERE run_id = '{run}'");
        parts.push(self.text(&twins).await);
        parts.concat()
    }
}

#[tokio::test]
async fn no_change_can_fail_by_a_zero_character_and_the_log_stays_sound() {
    let store = store().await;
    let job = store.created(true).await.enqueue.unwrap();
    let run = job.run_id;
    let epoch = store.claim(&job, "w").await.unwrap().epoch;
    for changes in every_change(run) {
        let told = format!("{changes:?}");
        let committed = store.progress(run, epoch, changes).await;
        assert!(committed.is_ok(), "{told}: {committed:?}");
    }
    let all = store.all_of(run).await;
    assert!(!all.contains("u0000"), "{all}");
    let view = store.reader.run(run).await.unwrap().unwrap();
    assert_eq!(
        (&view["status"], &view["error_message"]),
        (&json!("failed"), &json!(SHOWN))
    );
    assert_eq!(view["plan"]["goal"], SHOWN);
}

#[tokio::test]
async fn a_failed_attempt_whose_error_holds_a_zero_character_is_stored() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let id = step_id();
    store
        .progress(job.run_id, epoch, vec![turn(1), step(id, 1)])
        .await
        .unwrap();
    let release = Release::Retry {
        after_ms: 1000,
        error: text(),
        cause: RetryCause::Failure,
    };
    let released = store.orchestration.release(job.run_id, epoch, release).await;
    assert!(released.is_ok(), "{released:?}");
    let sql = "SELECT error_message || (waiting_for::text) FROM agent_runs";
    assert!(store.text(sql).await.contains(SHOWN));
}

#[tokio::test]
async fn payloads_and_metadata_of_the_runtime_are_stored_without() {
    let store = store().await;
    let new = NewRuntimeRun {
        worker_id: None,
        metadata: json!({NUL: NUL}),
    };
    let (run, ..) = store.runtime.create(new).await.unwrap();
    assert_eq!(run.metadata, json!({SHOWN: SHOWN}));
    let event = AppendEvent {
        event_type: "note".to_owned(),
        payload: json!({NUL: [NUL]}),
        idempotency_key: Some("k".to_owned()),
        expected_previous_seq: None,
    };
    let first = store
        .runtime
        .append(run.id, event.clone(), EventWindow::default())
        .await;
    assert_eq!(first.unwrap().events[1].payload, json!({SHOWN: [SHOWN]}));
    let again = store.runtime.append(run.id, event, EventWindow::default()).await;
    assert!(again.unwrap().replayed);
}
