//! A run store, an object store, and runs that have ended.

use clap::Parser;
use domain::change::Change;
use domain::ids::{RunId, WorkerId};
use domain::{Clock, ManualClock, RunStatus, SystemClock, SystemIds, UserId};
use jiff::SignedDuration;
use runs::{Created, Db, NewRun, Orchestration, Reader, Retention, RetryEdits};
use std::sync::Arc;
use std::time::Duration;
use testkit::{Postgres, S3};
use worker::retention::{RetentionOptions, Sweeper};
use worker::workspace::{RunWorkspace, S3Options, Workspaces};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    s3: S3Options,
    #[command(flatten)]
    retention: RetentionOptions,
}

pub(crate) struct Setup {
    pub s3: S3,
    pub orchestration: Orchestration,
    pub reader: Reader,
    pub clock: ManualClock,
    pub sweeper: Sweeper,
}

pub(crate) fn user() -> UserId {
    UserId::from("u-1")
}

/// With these rules beside the defaults.
pub(crate) async fn setup(rules: &[&str]) -> Setup {
    let s3 = S3::start().await;
    let url = Postgres::shared().await.migrated_database().await;
    let db = Db::from_url(&url).unwrap();
    let clock = ManualClock::at(SystemClock.now());
    let time: Arc<dyn Clock> = Arc::new(clock.clone());
    let endpoint = s3.endpoint();
    let given = [
        ("--s3-endpoint", endpoint.as_str()),
        ("--s3-workspace-bucket", s3.bucket()),
        ("--s3-access-key", s3.access_key()),
        ("--s3-secret-key", s3.secret_key()),
    ];
    let args = given.iter().flat_map(|(name, value)| [*name, *value]);
    let settings = Settings::parse_from(std::iter::once("test").chain(args).chain(rules.iter().copied()));
    Setup {
        orchestration: Orchestration::new(db.clone(), time.clone(), Arc::new(SystemIds)),
        reader: Reader::new(db.clone()),
        sweeper: Sweeper {
            runs: Retention::new(db),
            workspaces: Workspaces::from_options(&settings.s3),
            rules: settings.retention,
            clock: time,
        },
        clock,
        s3,
    }
}

impl Setup {
    pub(crate) fn files(&self, run: RunId) -> RunWorkspace {
        self.sweeper.workspaces.of_run(&user(), run)
    }

    pub(crate) fn pass(&self, hours: i64) {
        self.clock.advance(SignedDuration::from_hours(hours));
    }

    /// A run with one file of this size and something of ours, that has ended now.
    pub(crate) async fn ended(&self, status: RunStatus, bytes: usize) -> RunId {
        let new = NewRun {
            user_id: user(),
            prompt: "x".to_owned(),
            connector_ids: vec![],
            project_id: None,
            priority: 0,
            auto_start: true,
            retry_of: None,
            copy_workspace: false,
            rules: runs::RunRules::default(),
            traceparent: String::new(),
            max_retries: 3,
        };
        let Created::New(made) = self.orchestration.create(new, None).await.unwrap() else {
            panic!("no key was given");
        };
        let job = made.enqueue.unwrap();
        let worker = WorkerId::from("w");
        let lease = Duration::from_mins(1);
        let claimed = self
            .orchestration
            .claim(job.run_id, &worker, &job, lease)
            .await
            .unwrap();
        self.files(job.run_id)
            .write("result.txt", vec![b'x'; bytes].into())
            .await
            .unwrap();
        self.put(job.run_id, ".agent/packs/one").await;
        let end = Change::Status {
            to: status,
            error: None,
        };
        let executing = Change::Status {
            to: RunStatus::Executing,
            error: None,
        };
        self.orchestration
            .progress(job.run_id, claimed.epoch, vec![executing, end])
            .await
            .unwrap();
        job.run_id
    }

    pub(crate) async fn put(&self, run: RunId, path: &str) {
        let key = format!("{}{path}", self.files(run).prefix());
        let put = self.s3.client().put_object().bucket(self.s3.bucket()).key(key);
        put.body(vec![1].into()).send().await.unwrap();
    }

    /// What the store holds of a run, without its prefix.
    pub(crate) async fn stored(&self, run: RunId) -> Vec<String> {
        let prefix = self.files(run).prefix().to_owned();
        let listed = self.s3.client().list_objects_v2().bucket(self.s3.bucket());
        let listed = listed.prefix(&prefix).send().await.unwrap();
        let keys = listed.contents().iter().filter_map(|object| object.key());
        keys.map(|key| key[prefix.len()..].to_owned()).collect()
    }

    pub(crate) async fn retry_with_files(&self, run: RunId) -> RunId {
        let edits = RetryEdits {
            copy_workspace: true,
            ..RetryEdits::default()
        };
        let owner = user();
        let retried = self
            .orchestration
            .retry_edited(&owner, (run, edits), None, ("", 3));
        match retried.await.unwrap() {
            Created::New(made) => made.run.id,
            Created::Replayed { .. } => panic!("no key was given"),
        }
    }
}
