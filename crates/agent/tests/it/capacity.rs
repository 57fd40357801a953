//! A step without room for its sandbox: it waits pending, and begins when there is room.

use super::*;
use agent::ports::{Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest};
use std::sync::atomic::{AtomicBool, Ordering};

/// Has no room until told.
struct Crowded {
    room: CancellationToken,
    waits: CancellationToken,
    ran: AtomicBool,
}

impl Sandbox for Crowded {
    async fn run(
        &self,
        _: &SandboxRequest,
        events: &impl SandboxEvents,
        _: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        events.waiting().await?;
        self.waits.cancel();
        self.room.cancelled().await;
        events.admitted().await?;
        self.ran.store(true, Ordering::Relaxed);
        Ok(SandboxOutput {
            stdout: "hello\n".to_owned(),
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
            warnings: vec!["a child ran out of memory".to_owned()],
        })
    }
}

fn crowded() -> Crowded {
    Crowded {
        room: CancellationToken::new(),
        waits: CancellationToken::new(),
        ran: AtomicBool::new(false),
    }
}

/// Drives a run with one shell step; `then` happens while it waits.
async fn drive(bench: &Bench, sandbox: &Crowded, then: impl FnOnce()) -> Outcome {
    let call = json!({"type": "tool", "tool_name": "shell", "tool_input": {"command": "echo hello"}});
    let model = ListModel::new(&plan(1), &[call, json!({"type": "task_complete"})]);
    let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
    let driver = Driver {
        model: &model,
        tools: Router {
            workspace: &bench.workspace,
            sandbox,
            remote: &bench.remote,
        },
        log: &bench.log,
        clock: &clock,
        limits: Limits::default(),
        on_unknown: bench.on_unknown,
        epoch: 7,
        withheld: Mutex::default(),
        soft: bench.soft.clone(),
        pause: bench.pause.clone(),
        cancel: bench.cancel.clone(),
    };
    let meanwhile = async {
        sandbox.waits.cancelled().await;
        then();
    };
    tokio::join!(driver.drive(snapshot()), meanwhile).0
}

#[tokio::test]
async fn a_step_without_room_waits_pending_and_begins_when_there_is_room() {
    let (bench, sandbox) = (Bench::new(), crowded());
    let outcome = drive(&bench, &sandbox, || sandbox.room.cancel()).await;
    assert_eq!(outcome, Outcome::Finished(RunStatus::Completed));
    let names = bench.names().concat();
    let of_steps: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("Step"))
        .collect();
    assert_eq!(
        of_steps,
        ["StepStarted", "StepWaiting", "StepAdmitted", "StepSettled"]
    );
    assert!(format!("{:?}", bench.log.changes()).contains("a child ran out of memory"));
}

#[tokio::test]
async fn a_pause_or_a_shutdown_ends_the_wait_at_once_and_nothing_has_begun() {
    for (outcome, paused) in [(Outcome::Paused, true), (Outcome::HandedBack, false)] {
        let (bench, sandbox) = (Bench::new(), crowded());
        let token = if paused { &bench.pause } else { &bench.soft };
        let ended = drive(&bench, &sandbox, || token.cancel()).await;
        assert_eq!(ended, outcome);
        assert!(!sandbox.ran.load(Ordering::Relaxed));
        assert_eq!(bench.names().concat().last().unwrap(), "StepWaiting");
    }
}

#[tokio::test]
async fn a_run_that_was_stopped_while_its_step_waited_begins_nothing() {
    let (bench, sandbox) = (Bench::new(), crowded());
    let stopped = || {
        bench.log.refuse(CommitError::Ended(RunStatus::Cancelled));
        sandbox.room.cancel();
    };
    assert_eq!(drive(&bench, &sandbox, stopped).await, Outcome::EndedElsewhere);
    assert!(!sandbox.ran.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_claim_that_was_lost_during_the_wait_begins_nothing() {
    let (bench, sandbox) = (Bench::new(), crowded());
    let lost = || {
        bench.log.lose();
        sandbox.room.cancel();
    };
    assert_eq!(drive(&bench, &sandbox, lost).await, Outcome::LeaseLost);
    assert!(!sandbox.ran.load(Ordering::Relaxed));
}
