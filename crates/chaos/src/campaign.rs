//! One whole run of the suite: start, load and faults, settle, check.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::checker::{self, Violation};
use crate::counting::{Counting, Temper};
use crate::facts::{self, Facts};
use crate::history::{Entry, History, Record};
use crate::load::Load;
use crate::nemesis::{Nemesis, Plan};
use crate::observer::Observer;
use crate::sql::Sql;
use crate::supervisor::supervise;
use crate::system::{Setup, System};

/// After the last fault every run must have come to its end within this time.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
/// After the last run ended the lists must be empty within this time.
const REST_LIMIT: Duration = Duration::from_secs(30);
const OBSERVE_EVERY: Duration = Duration::from_millis(400);

/// What one campaign does.
#[derive(Debug, Clone)]
pub struct Order {
    pub seed: u64,
    /// Load and faults.
    pub time: Duration,
    pub clients: usize,
    pub plan: Plan,
    pub dir: PathBuf,
}

/// The parts that run beside the programs; the tasks end when it is dropped.
#[derive(Debug)]
pub struct Stage {
    pub system: Arc<System>,
    pub history: Arc<History>,
    pub counting: Arc<Counting>,
    /// How often the observer got a whole look.
    pub samples: Arc<AtomicU64>,
    tasks: Vec<AbortHandle>,
}

impl Stage {
    /// Starts everything but load and faults; `adjust` changes the set-up of the programs.
    pub async fn start(dir: &Path, seed: u64, temper: Temper, adjust: impl FnOnce(Setup) -> Setup) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let history = Arc::new(History::create(dir));
        let counting = Arc::new(Counting::start(Arc::clone(&history), temper, seed).await);
        let setup = adjust(Setup::new(dir).env("AGENT_COUNTING_TOOLS_URL", counting.url()));
        let system = Arc::new(setup.start().await);
        let watch = tokio::spawn(supervise(Arc::clone(&system), Arc::clone(&history)));
        Self {
            samples: Arc::default(),
            tasks: vec![watch.abort_handle()],
            system,
            history,
            counting,
        }
    }

    /// Samples the lists from now on.
    pub fn observe(&mut self, every: Duration) {
        let observer = Observer::new(&self.system, &self.history, &self.samples);
        self.tasks.push(tokio::spawn(observer.run(every)).abort_handle());
    }

    /// Stops what runs beside and the programs, and gives the history with the final state.
    pub async fn end(self) -> (Vec<Record>, Facts) {
        let mut facts = Facts::read(&self.system).await;
        for task in &self.tasks {
            task.abort();
        }
        self.system.stop();
        facts.panics = facts::panics(&self.system.dir.join("logs"));
        (self.history.read(), facts)
    }

    /// Waits until no live run, no outbox row and no entry of a list is left; false when `limit` has passed.
    pub async fn comes_to_rest(&self, limit: Duration) -> bool {
        const BUSY: &str = "SELECT (SELECT count(*) FROM agent_runs
                WHERE status IN ('queued', 'planning', 'executing') AND origin = 'agent_api')
            + (SELECT count(*) FROM agent_outbox)";
        let mut sql = Sql::new(&self.system.database_url);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let rows = sql.insist(BUSY, &[]).await;
            if rows[0].get::<_, i64>(0) == 0 && self.lists_are_empty().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    async fn lists_are_empty(&self) -> bool {
        let Ok(mut client) = crate::resp::Client::connect(self.system.redis_port).await else {
            return false;
        };
        let lists = facts::Lists::read(&mut client).await;
        lists
            .is_ok_and(|lists| lists.live().iter().all(|(_, jobs)| jobs.is_empty()) && lists.lease.is_empty())
    }
}

/// What a campaign found.
#[derive(Debug)]
pub struct Found {
    pub records: Vec<Record>,
    pub facts: Facts,
    pub violations: Vec<Violation>,
    /// From the last fault to rest.
    pub settled_after: Duration,
    /// Whole looks of the observer.
    pub samples: u64,
}

/// Runs one campaign.
pub async fn run(order: &Order) -> Found {
    let temper = Temper {
        fails: 0.02,
        cuts: 0.02,
    };
    let mut stage = Stage::start(&order.dir, order.seed, temper, |setup| {
        // Dozens of faults hit every run; these limits are tested elsewhere and would only end runs early here.
        setup
            .own_clock(order.plan.moves_clocks())
            .env("WORKER_MAX_RETRIES", "200")
            .env("WORKER_MAX_CRASHES", "50")
            .env("WORKER_RETRY_BASE_MS", "200")
            .env("WORKER_RETRY_CAP_MS", "3000")
            .env("AGENT_MAX_CONSECUTIVE_FAILURES", "15")
    })
    .await;
    stage.observe(OBSERVE_EVERY);
    let load = Load::new(&stage.system, &stage.history, &stage.counting, order.seed);
    let clients = load.start(order.clients);
    let nemesis = Nemesis::new(&stage.system, &stage.history, order.plan.clone());
    nemesis.run(order.seed, Instant::now() + order.time).await;
    load.close();
    stage.history.add(Entry::Quiet);
    let quiet = Instant::now();
    let ended = drain(clients).await;
    let rested = stage.comes_to_rest(REST_LIMIT).await;
    let settled_after = quiet.elapsed();
    stage.history.note(format!(
        "clients ended: {ended}, at rest: {rested}, after {settled_after:?}"
    ));
    let samples = stage.samples.load(Ordering::Relaxed);
    let (records, facts) = stage.end().await;
    let violations = checker::check(&records, &facts);
    Found {
        records,
        facts,
        violations,
        settled_after,
        samples,
    }
}

/// Waits until every client has followed its run to the end; false when some had to be given up.
async fn drain(mut clients: JoinSet<()>) -> bool {
    let all = async { while clients.join_next().await.is_some() {} };
    let ended = tokio::time::timeout(SETTLE_LIMIT, all).await.is_ok();
    clients.shutdown().await;
    ended
}
