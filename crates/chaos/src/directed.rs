//! Short schedules, each aimed at one promise: with the breakage of that promise (`AGENT_BREAKAGE`, debug builds only)
//! the checker must find something, and without it nothing.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{eventually, eventually_some};

use crate::campaign::Stage;
use crate::checker::{self, Violation};
use crate::client::ApiClient;
use crate::counting::Temper;
use crate::facts::Lists;
use crate::history::{Entry, Record};
use crate::resp::Client;
use crate::script::{count, prompt};
use crate::system::StoreName;

/// A promise that can be broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Breakage {
    NoFencing,
    NonAtomicClaim,
    SettleWithoutEpoch,
    PushBeforeCommit,
    NoReaper,
    ResultBeforeStored,
}

impl Breakage {
    pub const ALL: [Self; 6] = [
        Self::NoFencing,
        Self::NonAtomicClaim,
        Self::SettleWithoutEpoch,
        Self::PushBeforeCommit,
        Self::NoReaper,
        Self::ResultBeforeStored,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoFencing => "no_fencing",
            Self::NonAtomicClaim => "non_atomic_claim",
            Self::SettleWithoutEpoch => "settle_without_epoch",
            Self::PushBeforeCommit => "push_before_commit",
            Self::NoReaper => "no_reaper",
            Self::ResultBeforeStored => "result_before_stored",
        }
    }
}

/// For what takes moments on an idle machine.
const SOON: Duration = Duration::from_secs(20);
/// Far above a lease of 3 s, so that only a lost run is still live then.
const END_LIMIT: Duration = Duration::from_secs(14);
const OBSERVE_EVERY: Duration = Duration::from_millis(30);

/// Plays the schedule of `aim`; `broken` breaks the promise in all programs.
pub async fn play(aim: Breakage, broken: bool, dir: &Path) -> (Vec<Violation>, Vec<Record>) {
    let mut stage = Stage::start(dir, 1, Temper::CALM, |setup| {
        let setup = setup
            .size(1, 2)
            .env("WORKER_LEASE_SECONDS", "3")
            .env("WORKER_HEARTBEAT_SECONDS", "1");
        if broken {
            setup.env("AGENT_BREAKAGE", aim.as_str())
        } else {
            setup
        }
    })
    .await;
    stage.observe(OBSERVE_EVERY);
    let scene = Scene {
        client: ApiClient::new(&stage.system),
        stage,
    };
    scene.play(aim).await;
    scene.stage.history.add(Entry::Quiet);
    scene.stage.comes_to_rest(END_LIMIT).await;
    let (records, facts) = scene.stage.end().await;
    (checker::check(&records, &facts), records)
}

struct Scene {
    stage: Stage,
    client: ApiClient,
}

impl Scene {
    async fn play(&self, aim: Breakage) {
        match aim {
            Breakage::NoFencing => self.a_frozen_worker_wakes_inside_its_successors_call().await,
            Breakage::SettleWithoutEpoch => self.a_worker_is_frozen_between_its_two_claims().await,
            Breakage::NonAtomicClaim => self.many_runs_are_claimed().await,
            Breakage::PushBeforeCommit => self.runs_are_started_while_no_worker_works().await,
            Breakage::NoReaper => self.a_worker_is_killed_inside_a_call().await,
            Breakage::ResultBeforeStored => self.a_worker_is_killed_long_after_an_answer().await,
        }
    }

    async fn create(&self, items: &[Value]) -> String {
        let body = json!({"action": "create", "prompt": prompt(items)});
        let answer = self.client.insist(0, "/agent/execute", &body, None).await;
        let run_id = answer.body["run_id"].as_str().expect("an id").to_owned();
        let created = Entry::Created {
            run_id: run_id.clone(),
        };
        self.stage.history.add(created);
        run_id
    }

    async fn start(&self, run_id: &str) {
        let answer = self.client.act(0, "start", run_id).await;
        assert!(answer.is_ok(), "{answer:?}");
        self.stage.history.add(Entry::Started {
            run_id: run_id.to_owned(),
        });
    }

    async fn begin(&self, items: &[Value]) -> String {
        let run_id = self.create(items).await;
        self.start(&run_id).await;
        run_id
    }

    fn fault(&self, name: &str, target: &str) {
        self.stage.history.add(Entry::Fault {
            name: name.to_owned(),
            target: target.to_owned(),
            loses_redis: false,
        });
    }

    /// Waits until the history holds a record for which `probe` gives something.
    async fn seen<T>(&self, what: &str, probe: impl Fn(&Entry) -> Option<T>) -> T {
        let look = || async {
            self.stage
                .history
                .read()
                .iter()
                .find_map(|record| probe(&record.entry))
        };
        eventually_some(SOON, look)
            .await
            .unwrap_or_else(|| panic!("not seen within {SOON:?}: {what}"))
    }

    /// The token of the first call above `token`.
    async fn call_above(&self, token: i64) -> i64 {
        let probe = |entry: &Entry| match entry {
            Entry::Call(call) if call.token > token => Some(call.token),
            _ => None,
        };
        self.seen("a call under a newer claim", probe).await
    }

    /// Only worker 0 is left, so it is known who takes the next run.
    fn leave_one_worker(&self) {
        self.stage.system.workers[1].kill();
    }

    async fn a_frozen_worker_wakes_inside_its_successors_call(&self) {
        let workers = &self.stage.system.workers;
        self.leave_one_worker();
        self.begin(&[count("idempotent", 4_500, false), count("idempotent", 300, false)])
            .await;
        let token = self.call_above(0).await;
        self.fault("worker_stop", &workers[0].name);
        workers[0].pause();
        workers[1].start();
        self.call_above(token).await;
        workers[0].unpause();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    /// It holds the queue entry, but is frozen before it could claim the run; awake again it finds the run held by another.
    async fn a_worker_is_frozen_between_its_two_claims(&self) {
        let workers = &self.stage.system.workers;
        self.leave_one_worker();
        let link = workers[0].links.to(StoreName::Postgres);
        self.fault("link_stall", "worker-0 postgres");
        link.stall();
        self.begin(&[count("idempotent", 9_000, false)]).await;
        eventually(SOON, || async { self.is_in_processing().await }).await;
        self.fault("worker_stop", &workers[0].name);
        workers[0].pause();
        workers[1].start();
        self.call_above(0).await;
        link.restore();
        workers[0].unpause();
    }

    async fn is_in_processing(&self) -> bool {
        let Ok(mut client) = Client::connect(self.stage.system.redis_port).await else {
            return false;
        };
        Lists::read(&mut client)
            .await
            .is_ok_and(|lists| !lists.processing.is_empty())
    }

    async fn many_runs_are_claimed(&self) {
        for _ in 0..8 {
            self.begin(&[count("pure", 0, false)]).await;
        }
    }

    async fn runs_are_started_while_no_worker_works(&self) {
        let workers = &self.stage.system.workers;
        for worker in workers {
            self.fault("worker_stop", &worker.name);
            worker.pause();
        }
        for _ in 0..4 {
            self.begin(&[count("pure", 0, false)]).await;
        }
        for worker in workers {
            worker.unpause();
        }
    }

    async fn a_worker_is_killed_inside_a_call(&self) {
        let workers = &self.stage.system.workers;
        self.leave_one_worker();
        self.begin(&[count("idempotent", 3_000, false), count("pure", 0, false)])
            .await;
        self.call_above(0).await;
        self.fault("worker_kill", &workers[0].name);
        workers[0].kill();
        workers[1].start();
    }

    async fn a_worker_is_killed_long_after_an_answer(&self) {
        let workers = &self.stage.system.workers;
        self.leave_one_worker();
        let think = json!({"type": "sleep", "ms": 6_000});
        self.begin(&[
            count("idempotent", 0, false),
            think,
            count("idempotent", 0, false),
        ])
        .await;
        let probe = |entry: &Entry| matches!(entry, Entry::Answered { .. }).then_some(());
        self.seen("an answered call", probe).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        self.fault("worker_kill", &workers[0].name);
        workers[0].kill();
        workers[1].start();
    }
}
