use crate::support::{Store, outline, settled, step, step_id, store, to, turn};
use domain::change::Change;
use domain::command::{Command, EffectDecision, Release, Verdict};
use domain::decide::Rejection;
use domain::ids::{JobId, StepId};
use domain::job::Job;
use domain::status::RunStatus;
use domain::tool::ToolResult;
use domain::waiting::{RetryCause, effect_unknown};
use runs::CommandError;
use serde_json::{Value, json};
use uuid::Uuid;

impl Store {
    /// A run that asks what became of its one step.
    async fn asking(&self) -> (Job, StepId) {
        let (job, epoch) = self.executing().await;
        let id = step_id();
        self.progress(job.run_id, epoch, vec![turn(1), step(id, 1)])
            .await
            .unwrap();
        let ask = vec![
            Change::StepUnknown { step_id: id },
            Change::Waiting(Some(effect_unknown(
                id,
                ("connector", &json!({"n": 1})),
                epoch,
                "lost",
            ))),
            to(RunStatus::WaitingUser),
        ];
        let asked = self.progress(job.run_id, epoch, ask).await.unwrap();
        assert_eq!(asked.remove_job, Some(job.job_id), "no place in the queue");
        assert!(asked.run.lease.is_none(), "no worker");
        (job, id)
    }

    async fn settle(&self, job: &Job, step_id: StepId, decision: EffectDecision) -> Result<(), CommandError> {
        let command = Command::SettleEffect {
            step_id,
            verdict: Verdict {
                decision,
                output: Some(json!({"id": 7})),
                note: None,
                epoch: None,
            },
            job_id: JobId(Uuid::from_u128(77)),
        };
        let committed = self.command(job.run_id, command).await?;
        assert_eq!(committed.run.status, RunStatus::Executing);
        assert!(committed.enqueue.is_some(), "it goes on");
        Ok(())
    }

    async fn effect(&self, job: &Job) -> Value {
        self.reader.effects(job.run_id).await.unwrap().remove(0)
    }

    async fn waits_for(&self, job: &Job) -> Value {
        self.reader.run(job.run_id).await.unwrap().unwrap()["waiting_for"].clone()
    }
}

#[tokio::test]
async fn the_ledger_says_which_claim_began_and_which_settled_a_step() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let id = step_id();
    store
        .progress(job.run_id, epoch, vec![turn(1), step(id, 1)])
        .await
        .unwrap();
    let claimed = store.effect(&job).await;
    assert_eq!(
        (&claimed["state"], &claimed["claimed_epoch"]),
        (&json!("claimed"), &json!(epoch))
    );
    store.lease_runs_out(job.run_id).await;
    let second = store.claim(&job, "b").await.unwrap().epoch;
    let work = vec![
        Change::StepRestarted { step_id: id },
        settled(id, ToolResult::ok(json!({}), 1.0)),
    ];
    store.progress(job.run_id, second, work).await.unwrap();
    let effect = store.effect(&job).await;
    assert_eq!(effect["state"], "settled");
    assert_eq!(
        (&effect["claimed_epoch"], &effect["settled_epoch"]),
        (&json!(second), &json!(second))
    );
    assert_eq!(
        (&effect["tries"], &effect["effect"]),
        (&json!(2), &json!("idempotent"))
    );
}

#[tokio::test]
async fn an_unknown_effect_is_settled_once_by_the_users_word() {
    for (decision, state, status) in [
        (EffectDecision::Done, "settled", "completed"),
        (EffectDecision::NotDone, "settled", "failed"),
        (EffectDecision::Retry, "pending", "pending"),
    ] {
        let store = store().await;
        let (job, id) = store.asking().await;
        assert_eq!(store.effect(&job).await["state"], "unknown");
        let waiting = store.waits_for(&job).await;
        assert_eq!(
            (&waiting["kind"], &waiting["step_id"]),
            (&json!("effect_unknown"), &json!(id))
        );
        let resume = Command::Resume {
            user_input: None,
            job_id: JobId(Uuid::from_u128(78)),
        };
        let refused = store.command(job.run_id, resume).await;
        assert!(matches!(
            refused,
            Err(CommandError::Rejected(Rejection::EffectUnknown(_)))
        ));
        store.settle(&job, id, decision).await.unwrap();
        let effect = store.effect(&job).await;
        assert_eq!(
            (&effect["state"], &effect["status"]),
            (&json!(state), &json!(status))
        );
        let again = store.settle(&job, id, decision).await;
        assert!(matches!(
            again,
            Err(CommandError::Rejected(Rejection::NotUnknown(_)))
        ));
        let told = outline(&store.events(job.run_id).await);
        assert_eq!(told.last().map(String::as_str), Some("->executing"));
    }
}

#[tokio::test]
async fn a_retry_says_why_and_until_when_and_a_claim_takes_it_back() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    assert_eq!(store.waits_for(&job).await, Value::Null, "a held run moves");
    let release = Release::Retry {
        after_ms: 60_000,
        error: "overloaded".to_owned(),
        cause: RetryCause::ModelLimit,
    };
    store
        .orchestration
        .release(job.run_id, epoch, release)
        .await
        .unwrap();
    // The tests' clock stands still in the past; what is due is judged by the database's.
    let later = "UPDATE agent_runs SET next_retry_at = now() + interval '1 minute' WHERE id = $1";
    store.psql().await.execute(later, &[&job.run_id.0]).await.unwrap();
    let waiting = store.waits_for(&job).await;
    assert_eq!(
        (&waiting["kind"], &waiting["detail"]),
        (&json!("model_backoff"), &json!("overloaded"))
    );
    assert!(waiting["until"].as_str() > waiting["since"].as_str(), "{waiting}");
    store.claim(&job, "b").await.unwrap();
    assert_eq!(store.waits_for(&job).await, Value::Null);
}
