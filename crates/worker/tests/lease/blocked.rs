//! The lease thread beside a runtime that does nothing and processors that are all busy.

use domain::ids::WorkerId;
use domain::{Clock, Ids, Job, Rejection, SystemClock, SystemIds};
use queue::{ConsumerOptions, Queue, RedisOptions};
use runs::{CommandError, Created, Db, DbOptions, NewRun, Orchestration};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use testkit::{Postgres, Redis};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use worker::held::{HeldRuns, Hold};
use worker::intake::Progress;
use worker::lease::LeaseThread;

const LEASE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(1);
/// Without a renewal both leases would have run out twice.
const BLOCKED: Duration = Duration::from_secs(11);
const RUNTIME_THREADS: usize = 2;
const BUSY_THREADS: usize = 8;

/// A run held in both stores.
struct Held {
    redis: Redis,
    database_url: String,
    orchestration: Orchestration,
    job: Job,
    hold: Hold,
}

async fn hold_a_run() -> Held {
    let redis = Redis::start().await;
    let database_url = Postgres::shared().await.migrated_database().await;
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(SystemIds));
    let orchestration = Orchestration::new(Db::from_url(&database_url).unwrap(), clock, Arc::clone(&ids));
    let new = NewRun {
        user_id: "u-1".into(),
        prompt: "List files".to_owned(),
        connector_ids: vec![],
        project_id: None,
        priority: 0,
        auto_start: true,
        retry_of: None,
        copy_workspace: false,
        rules: runs::RunRules::default(),
        traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01".to_owned(),
        max_retries: 3,
    };
    let Created::New(created) = orchestration.create(new, None).await.unwrap() else {
        panic!("no key was given");
    };
    let job = created.enqueue.unwrap();
    let queue = Queue::connect(&RedisOptions::for_url(redis.url())).await.unwrap();
    testkit::eventually(Duration::from_secs(30), || async {
        queue.push(&job).await.is_ok()
    })
    .await;
    let options = ConsumerOptions {
        lease: LEASE,
        longest_wait: EVERY,
        ids,
    };
    let consumer = queue.consumer(worker(), options).unwrap();
    let delivery = consumer.claim(1).await.unwrap().pop().unwrap();
    let claimed = orchestration
        .claim(job.run_id, &worker(), &job, LEASE)
        .await
        .unwrap();
    let mut hold = Hold::new(
        delivery.claim(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    hold.epoch = Some(claimed.epoch);
    Held {
        redis,
        database_url,
        orchestration,
        job,
        hold,
    }
}

fn worker() -> WorkerId {
    WorkerId::from("w")
}

/// Both stores would refuse another worker, by their own clocks.
async fn assert_held(held: &Held) {
    let thief = WorkerId::from("thief");
    let taken = held
        .orchestration
        .claim(held.job.run_id, &thief, &held.job, LEASE)
        .await;
    assert!(
        matches!(taken, Err(CommandError::Rejected(Rejection::Held(_)))),
        "Postgres: {taken:?}"
    );
    let score = held
        .redis
        .cli(&["ZSCORE", "jobs:lease", &held.job.job_id.to_string()]);
    let now = held.redis.cli(&["TIME"]);
    let (end_ms, now_s): (f64, f64) = (
        score.parse().unwrap(),
        now.lines().next().unwrap().parse().unwrap(),
    );
    assert!(end_ms > now_s * 1000.0, "Redis: {score} at {now}");
}

#[test]
fn leases_are_renewed_while_the_runtime_is_blocked_and_all_processors_are_busy() {
    // What the test itself asks with, apart from the runtime that will be blocked.
    let eyes = Runtime::new().unwrap();
    let held = eyes.block_on(hold_a_run());
    let runs = HeldRuns::default();
    let guard = runs.hold(held.job.run_id, held.hold.clone()).unwrap();
    let stop = CancellationToken::new();
    let thread = LeaseThread {
        worker: worker(),
        held: runs.clone(),
        db: DbOptions::of_url(&held.database_url),
        redis: RedisOptions::for_url(held.redis.url()),
        lease: LEASE,
        every: EVERY,
        stop: stop.clone(),
    };
    let thread = thread.start(Progress::default()).unwrap();

    let main = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .unwrap();
    let until = Instant::now() + BLOCKED;
    let blocked = Arc::new(Barrier::new(RUNTIME_THREADS + 1));
    for _ in 0..RUNTIME_THREADS {
        let blocked = Arc::clone(&blocked);
        main.spawn(async move {
            blocked.wait();
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        });
    }
    blocked.wait();
    let idle = main.spawn(async {});
    let busy = Arc::new(AtomicBool::new(true));
    let spinners: Vec<_> = (0..BUSY_THREADS)
        .map(|_| {
            let busy = Arc::clone(&busy);
            std::thread::spawn(move || while busy.load(Ordering::Relaxed) {})
        })
        .collect();

    while Instant::now() < until {
        eyes.block_on(assert_held(&held));
        let was_idle = idle.is_finished();
        assert!(
            !was_idle || Instant::now() >= until,
            "the runtime was not blocked"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(!held.hold.cancel.is_cancelled(), "the run was given up");
    busy.store(false, Ordering::Relaxed);
    for spinner in spinners {
        spinner.join().unwrap();
    }
    drop(guard);
    stop.cancel();
    thread.join().unwrap();
}
