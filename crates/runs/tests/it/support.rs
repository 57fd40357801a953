//! A migrated database and short names for what most tests do.

use domain::action::{Action, ActionKind, Turn, Usage};
use domain::change::{Change, NewStep};
use domain::clock::{Clock, Ids, ManualClock, SystemIds};
use domain::command::Command;
use domain::event::Event;
use domain::ids::{JobId, RunId, StepId, UserId, WorkerId};
use domain::job::Job;
use domain::run::StepStatus;
use domain::status::RunStatus;
use domain::tool::{Effect, ToolResult};
use jiff::Timestamp;
use runs::{Claimed, CommandError, Committed, Created, Db, NewRun, Orchestration, Reader, RuntimeRuns};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use testkit::Postgres;
use tokio_postgres::{Client, NoTls};

pub(crate) const LEASE: Duration = Duration::from_secs(9);
pub(crate) const TRACE: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";

pub(crate) struct Store {
    pub(crate) url: String,
    pub(crate) db: Db,
    pub(crate) clock: ManualClock,
    pub(crate) orchestration: Orchestration,
    pub(crate) runtime: RuntimeRuns,
    pub(crate) reader: Reader,
}

pub(crate) fn ids() -> Arc<dyn Ids> {
    Arc::new(SystemIds)
}

pub(crate) async fn store() -> Store {
    let url = Postgres::shared().await.migrated_database().await;
    let db = Db::from_url(&url).unwrap();
    let clock = ManualClock::at("2026-11-20T17:00:00Z".parse().unwrap());
    let time: Arc<dyn Clock> = Arc::new(clock.clone());
    Store {
        orchestration: Orchestration::new(db.clone(), Arc::clone(&time), ids()),
        runtime: RuntimeRuns::new(db.clone(), time, ids()),
        reader: Reader::new(db.clone()),
        url,
        db,
        clock,
    }
}

pub(crate) fn user() -> UserId {
    "u-1".into()
}

pub(crate) fn new_run(auto_start: bool) -> NewRun {
    NewRun {
        user_id: user(),
        prompt: "List files".to_owned(),
        connector_ids: vec!["github".to_owned(), "slack".to_owned(), "github".to_owned()],
        project_id: Some("p-1".to_owned()),
        priority: 0,
        auto_start,
        retry_of: None,
        copy_workspace: false,
        rules: runs::RunRules::default(),
        traceparent: TRACE.to_owned(),
        max_retries: 3,
    }
}

pub(crate) fn job_id() -> JobId {
    JobId(SystemIds.uuid())
}

pub(crate) fn now() -> Timestamp {
    domain::SystemClock.now()
}

impl Store {
    pub(crate) async fn created(&self, auto_start: bool) -> Committed {
        match self
            .orchestration
            .create(new_run(auto_start), None)
            .await
            .unwrap()
        {
            Created::New(committed) => committed,
            Created::Replayed { .. } => panic!("no key was given"),
        }
    }

    pub(crate) async fn command(&self, run: RunId, command: Command) -> Result<Committed, CommandError> {
        self.orchestration.command(&user(), run, command, TRACE).await
    }

    pub(crate) async fn claim(&self, job: &Job, worker: &str) -> Result<Claimed, CommandError> {
        self.orchestration
            .claim(job.run_id, &WorkerId::from(worker), job, LEASE)
            .await
    }

    pub(crate) async fn progress(
        &self,
        run: RunId,
        epoch: i64,
        changes: Vec<Change>,
    ) -> Result<Committed, CommandError> {
        self.orchestration.progress(run, epoch, changes).await
    }

    /// A run held by worker `w`, executing a one-phase plan.
    pub(crate) async fn executing(&self) -> (Job, i64) {
        let job = self.created(true).await.enqueue.unwrap();
        let claimed = self.claim(&job, "w").await.unwrap();
        self.progress(job.run_id, claimed.epoch, vec![plan(), to(RunStatus::Executing)])
            .await
            .unwrap();
        (job, claimed.epoch)
    }

    pub(crate) async fn events(&self, run: RunId) -> Vec<Event> {
        self.reader.events_after(run, 0, 10_000).await.unwrap()
    }

    pub(crate) async fn psql(&self) -> Client {
        connect(&self.url).await
    }

    pub(crate) async fn deadline(&self, run: RunId) -> Timestamp {
        let view = self.reader.run(run).await.unwrap().unwrap();
        view["deadline_at"].as_str().unwrap().parse().unwrap()
    }

    /// One number by SQL.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.psql().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// One text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        self.psql().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The worker's process is gone: its lease has run out.
    pub(crate) async fn lease_runs_out(&self, run: RunId) {
        let sql = "UPDATE agent_runs SET lease_expires_at = now() - interval '1 second' WHERE id = $1";
        self.psql().await.execute(sql, &[&run.0]).await.unwrap();
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn to(status: RunStatus) -> Change {
    Change::Status {
        to: status,
        error: None,
    }
}

pub(crate) fn plan() -> Change {
    let phases: Vec<_> = (1..=2).map(|n| json!({"phase_number": n, "name": "x"})).collect();
    let plan = json!({"goal": "g", "total_estimated_credits": 0, "phases": phases});
    Change::PlanStored {
        plan: domain::Plan::from_value(&plan).unwrap(),
    }
}

pub(crate) fn turn(number: u32) -> Change {
    let action = Action {
        kind: ActionKind::Tool,
        tool_name: Some("shell".to_owned()),
        tool_input: Some(json!({"command": "ls"})),
        message: None,
        reasoning: Some("look first".to_owned()),
        call_id: Some(format!("call-{number}")),
        refused: None,
    };
    Change::TurnStored {
        turn: Turn {
            number,
            actions: vec![action],
            raw: json!({"z": 1, "a": 2}),
            fault: None,
        },
        model: "m".to_owned(),
        provider: "scripted".to_owned(),
        usage: Usage {
            input_tokens: 10,
            output_tokens: 5,
            is_estimated: true,
            ..Usage::default()
        },
    }
}

pub(crate) fn step(id: StepId, turn: u32) -> Change {
    Change::StepStarted(NewStep {
        id,
        phase_number: 1,
        turn,
        action: 0,
        tool_name: "shell".to_owned(),
        tool_input: json!({"command": "ls"}),
        effect: Effect::Idempotent,
    })
}

pub(crate) fn step_id() -> StepId {
    StepId(SystemIds.uuid())
}

pub(crate) fn settled(id: StepId, result: ToolResult) -> Change {
    let status = if result.success {
        StepStatus::Completed
    } else {
        StepStatus::Failed
    };
    Change::StepSettled {
        step_id: id,
        status,
        result,
        duration_ms: 12,
    }
}

/// `state_transition` targets and other log types, in order.
pub(crate) fn outline(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event.metadata.get("to_status").and_then(|to| to.as_str()) {
        Some(to) => format!("->{to}"),
        None => event.log_type.as_str().to_owned(),
    };
    events.iter().map(word).collect()
}

/// Seq without gap from 1, times strictly rising.
pub(crate) fn assert_in_order(events: &[Event]) {
    for (expected, event) in (1..).zip(events) {
        assert_eq!(event.seq, expected);
    }
    for pair in events.windows(2) {
        assert!(
            pair[0].created_at < pair[1].created_at,
            "{:?} {:?}",
            pair[0],
            pair[1]
        );
    }
}
