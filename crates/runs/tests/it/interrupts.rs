//! What a run asks a person, as it is stored: opened with the wait, decided once, closed with the run.

use crate::support::{Store, job_id, outline, settled, step, step_id, store, to, turn, user};
use domain::change::Change;
use domain::clock::{Clock as _, Ids as _, SystemIds};
use domain::command::Command;
use domain::decide::Rejection;
use domain::ids::{InterruptId, MessageId, RunId};
use domain::interrupt::{
    InterruptKind, InterruptStatus, InterruptVerdict, NewInterrupt, approval_schema, call_hash,
};
use domain::job::Job;
use domain::policy::Labels;
use domain::status::RunStatus;
use domain::tool::ToolResult;
use domain::waiting::{WaitKind, waiting};
use jiff::{SignedDuration, Timestamp};
use runs::{CommandError, Committed, RunRules, Sweep};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

fn id(number: u128) -> InterruptId {
    InterruptId(Uuid::from_u128(number))
}

fn asked(run: RunId, number: u32, kind: InterruptKind, expires_at: Option<Timestamp>) -> Change {
    let input = json!({"z": 1, "a": 1.0, "text": "x\u{202e}"});
    let tool = kind == InterruptKind::Tool;
    Change::InterruptOpened(Box::new(NewInterrupt {
        id: InterruptId(Uuid::new_v5(&run.0, &number.to_be_bytes())),
        kind,
        turn: 1,
        action: number,
        step_id: None,
        tool_name: tool.then(|| "shell".to_owned()),
        hash: tool.then(|| call_hash("shell", &input, None)),
        tool_input: tool.then_some(input),
        labels: Labels::default(),
        message: "Allow shell?".to_owned(),
        reason: "the policy asks".to_owned(),
        response_schema: approval_schema(),
        expires_at,
    }))
}

fn named(run: RunId, number: u32) -> InterruptId {
    InterruptId(Uuid::new_v5(&run.0, &number.to_be_bytes()))
}

impl Store {
    /// A run that asks about `kinds`, all until `expires_at`.
    async fn interrupted(&self, kinds: &[InterruptKind], expires_at: Option<Timestamp>) -> Job {
        let (job, epoch) = self.executing().await;
        let mut changes = vec![turn(1)];
        changes.extend(
            (0..)
                .zip(kinds)
                .map(|(number, kind)| asked(job.run_id, number, *kind, expires_at)),
        );
        changes.push(Change::Waiting(Some(waiting(WaitKind::Approval, "asked"))));
        changes.push(to(RunStatus::WaitingUser));
        let committed = self.progress(job.run_id, epoch, changes).await.unwrap();
        assert_eq!(committed.remove_job, Some(job.job_id), "no place in the queue");
        assert!(committed.run.lease.is_none(), "no worker");
        job
    }

    async fn decide(
        &self,
        job: &Job,
        number: u32,
        verdict: InterruptVerdict,
    ) -> Result<Committed, CommandError> {
        let command = Command::Decide {
            interrupt_id: named(job.run_id, number),
            verdict,
            now: self.clock.now(),
            job_id: crate::support::job_id(),
        };
        self.command(job.run_id, command).await
    }

    async fn states(&self, job: &Job) -> Vec<String> {
        let all = self.reader.interrupts(job.run_id, true).await.unwrap();
        all.iter()
            .map(|one| one["status"].as_str().unwrap().to_owned())
            .collect()
    }

    fn sweep(&self) -> Sweep {
        Sweep::new(self.db.clone(), Arc::new(self.clock.clone()))
    }
}

#[tokio::test]
async fn the_last_of_several_decisions_lets_the_run_go_on_with_one_job() {
    let store = store().await;
    let job = store
        .interrupted(&[InterruptKind::Tool, InterruptKind::Tool], None)
        .await;
    let open = store.reader.interrupts(job.run_id, false).await.unwrap();
    assert_eq!(open.len(), 2);
    let input = &open[0]["toolInput"];
    assert_eq!(
        input.to_string(),
        "{\"z\":1,\"a\":1.0,\"text\":\"x\u{202e}\"}",
        "exactly as asked, in its order"
    );
    assert_eq!(open[0]["hash"], json!(call_hash("shell", input, None)));

    let first = store.decide(&job, 1, InterruptVerdict::Approve).await.unwrap();
    assert_eq!(
        (first.run.status, first.enqueue.is_none()),
        (RunStatus::WaitingUser, true)
    );
    let view = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(
        view["waiting_for"]["interrupt_ids"],
        json!([named(job.run_id, 0)])
    );
    let edit = InterruptVerdict::Edit(json!({"command": "ls"}));
    let second = store.decide(&job, 0, edit).await.unwrap();
    assert_eq!(second.run.status, RunStatus::Executing);
    let job_again = second.enqueue.unwrap();

    let late = store.decide(&job, 0, InterruptVerdict::Approve).await;
    assert!(matches!(
        late,
        Err(CommandError::Rejected(Rejection::InterruptClosed(_)))
    ));
    let claimed = store.claim(&job_again, "b").await.unwrap();
    let known = claimed.snapshot.interrupts;
    assert_eq!(known.len(), 2);
    assert_eq!(known[0].edited_input(), Some(&json!({"command": "ls"})));
    assert_eq!(known[0].status, InterruptStatus::Resolved);
    let decided = store
        .reader
        .interrupt(job.run_id, named(job.run_id, 0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (&decided["decision"], &decided["response"]["input"]),
        (&json!("edit"), &json!({"command": "ls"}))
    );
    let by = store.text("SELECT min(decided_by) FROM agent_interrupts").await;
    assert_eq!(by, user().0);
}

#[tokio::test]
async fn asking_twice_is_one_interrupt_and_a_stopped_run_asks_nothing() {
    let store = store().await;
    let job = store.interrupted(&[InterruptKind::Tool], None).await;
    let stopped = store.command(job.run_id, Command::Stop).await.unwrap();
    assert_eq!(stopped.run.status, RunStatus::Cancelled);
    assert_eq!(store.states(&job).await, ["cancelled"]);
    let late = store.decide(&job, 0, InterruptVerdict::Approve).await;
    assert!(matches!(
        late,
        Err(CommandError::Rejected(Rejection::InterruptClosed(_)))
    ));

    let (job, epoch) = store.executing().await;
    let twice = vec![
        asked(job.run_id, 0, InterruptKind::Tool, None),
        asked(job.run_id, 0, InterruptKind::Tool, None),
        to(RunStatus::WaitingUser),
    ];
    store.progress(job.run_id, epoch, twice).await.unwrap();
    assert_eq!(store.states(&job).await, ["open"]);
}

#[tokio::test]
async fn a_resume_answers_a_question_and_cannot_approve() {
    let store = store().await;
    let resume = |text: Option<&str>| Command::Resume {
        user_input: text.map(|text| (MessageId(SystemIds.uuid()), text.to_owned())),
        job_id: job_id(),
    };
    let job = store.interrupted(&[InterruptKind::Tool], None).await;
    let refused = store.command(job.run_id, resume(Some("yes, do it"))).await;
    let Err(CommandError::Rejected(Rejection::ApprovalOpen(open))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(open, [named(job.run_id, 0)]);

    let job = store.interrupted(&[InterruptKind::Question], None).await;
    let resumed = store.command(job.run_id, resume(Some("blue"))).await.unwrap();
    assert_eq!(resumed.run.status, RunStatus::Executing);
    let one = store
        .reader
        .interrupt(job.run_id, named(job.run_id, 0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (&one["decision"], &one["response"]),
        (&json!("answer"), &json!({"text": "blue"}))
    );

    let job = store.interrupted(&[InterruptKind::Question], None).await;
    store.command(job.run_id, resume(None)).await.unwrap();
    assert_eq!(store.states(&job).await, ["cancelled"]);
}

#[tokio::test]
async fn what_nobody_decided_in_time_counts_as_rejected_and_the_run_goes_on() {
    let store = store().await;
    let end = store.clock.now() + SignedDuration::from_mins(10);
    let job = store.interrupted(&[InterruptKind::Tool], Some(end)).await;
    assert_eq!(store.sweep().overdue_approvals(10).await.unwrap(), []);
    let early = store.orchestration.expire_interrupts(job.run_id).await;
    assert!(matches!(early, Err(CommandError::Rejected(_))));
    store.clock.advance(SignedDuration::from_mins(10));
    assert_eq!(store.sweep().overdue_approvals(10).await.unwrap(), [job.run_id]);
    let late = store.decide(&job, 0, InterruptVerdict::Approve).await;
    assert!(matches!(
        late,
        Err(CommandError::Rejected(Rejection::InterruptExpired(_)))
    ));
    let expired = store.orchestration.expire_interrupts(job.run_id).await.unwrap();
    assert_eq!(expired.run.status, RunStatus::Executing);
    let claimed = store.claim(&expired.enqueue.unwrap(), "b").await.unwrap();
    let refusal = claimed.snapshot.interrupts[0].refusal();
    assert_eq!(refusal.as_deref(), Some("Approval expired"));
}

#[tokio::test]
async fn a_rejected_plan_ends_the_run_and_an_edited_one_is_a_new_version() {
    let store = store().await;
    let job = store.interrupted(&[InterruptKind::Plan], None).await;
    let reason = Some("too dear".to_owned());
    let rejected = store
        .decide(&job, 0, InterruptVerdict::Reject { reason })
        .await
        .unwrap();
    assert_eq!(rejected.run.status, RunStatus::Cancelled);
    let view = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(view["error_message"], "Plan rejected: too dear");

    let job = store.interrupted(&[InterruptKind::Plan], None).await;
    let plan =
        json!({"goal": "less", "total_estimated_credits": 0, "phases": [{"phase_number": 1, "name": "x"}]});
    let plan = domain::Plan::from_value(&plan).unwrap();
    let edited = store
        .decide(&job, 0, InterruptVerdict::EditPlan(plan))
        .await
        .unwrap();
    assert_eq!(
        (edited.run.status, edited.run.total_phases),
        (RunStatus::Executing, 1)
    );
    let view = store.reader.run(job.run_id).await.unwrap().unwrap();
    assert_eq!(
        (&view["plan"]["goal"], &view["plan_version"]),
        (&json!("less"), &json!(2))
    );
    let told = outline(&store.events(job.run_id).await);
    assert_eq!(told.last().map(String::as_str), Some("->executing"));
}

#[tokio::test]
async fn rules_of_a_run_come_with_its_claim_and_with_its_retry() {
    let store = store().await;
    let mut new = crate::support::new_run(true);
    new.rules = RunRules {
        policy: Some(json!({"shell": "deny"})),
        plan_only: true,
    };
    let runs::Created::New(created) = store.orchestration.create(new.clone(), None).await.unwrap() else {
        panic!("no key was given");
    };
    let job = created.enqueue.unwrap();
    let claimed = store.claim(&job, "w").await.unwrap();
    assert_eq!(claimed.snapshot.rules, new.rules);
    let failed = Change::Status {
        to: RunStatus::Failed,
        error: None,
    };
    store
        .progress(job.run_id, claimed.epoch, vec![failed])
        .await
        .unwrap();
    let retried = store
        .orchestration
        .retry(&user(), job.run_id, None, (crate::support::TRACE, 3))
        .await;
    let runs::Created::New(again) = retried.unwrap() else {
        panic!("no key was given");
    };
    let claimed = store.claim(&again.enqueue.unwrap(), "w").await.unwrap();
    assert_eq!(claimed.snapshot.rules, new.rules);
}

#[tokio::test]
async fn a_run_without_questions_has_none_and_a_foreign_interrupt_is_none() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let step_id = step_id();
    let work = vec![
        turn(1),
        step(step_id, 1),
        settled(step_id, ToolResult::ok(json!({}), 1.0)),
    ];
    store.progress(job.run_id, epoch, work).await.unwrap();
    assert_eq!(
        store.reader.interrupts(job.run_id, true).await.unwrap(),
        Vec::<Value>::new()
    );
    assert_eq!(store.reader.interrupt(job.run_id, id(7)).await.unwrap(), None);
}
