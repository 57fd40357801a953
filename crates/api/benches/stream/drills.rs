//! The long forms of what the tests show, each of which ends by itself.
//!
//! | drill | does | promise |
//! | --- | --- | --- |
//! | `redis-cut` | Redis cut for 30 s under 100 viewers × 50 events/s on two processes | nothing lost, no pause above 2.5 s |
//! | `postgres-cut` | Postgres away for 40 s | `Stream interrupted` with `retry: 5000` after 30 s, then the rest |
//! | `shutdown` | SIGTERM under 1,000 streams and 50 events/s, ten times | exit within 10 s, nothing lost |
//! | `serve` | two processes on given ports, one of them restarted, for a browser or a proxy to watch | – |

use crate::figures::Figure;
use crate::harness::{Api, Worker, program};
use crate::support::lines;
use domain::RunId;
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, Follower, Postgres, Process, Redis, eventually, free_port};

const LIMIT: Duration = Duration::from_mins(3);
const EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn run(names: &[&str]) -> Vec<Figure> {
    let mut figures = vec![crate::support::load_average("at the start")];
    for name in names {
        figures.extend(match *name {
            "redis-cut" => redis_cut().await,
            "postgres-cut" => postgres_cut().await,
            "shutdown" => shutdowns().await,
            "serve" => serve().await,
            _ => panic!("no such drill: {name}"),
        });
    }
    figures.push(crate::support::load_average("at the end"));
    figures
}

/// Two processes and a run that is executing.
struct Scene {
    first: Api,
    second: Process,
    ports: [u16; 2],
    run: RunId,
    epoch: i64,
    worker: Arc<Worker>,
}

impl Scene {
    async fn start(db_url: String, redis: Redis, redis_url: &str) -> Self {
        let first = Api::on(db_url, redis, &[("REDIS_URL", redis_url), ("LOG_LEVEL", "warn")]).await;
        let port: u16 = first.base.rsplit(':').next().unwrap().parse().unwrap();
        let (second, other) = another(&first, redis_url).await;
        let run = first.created_and_started("u").await;
        let worker = Arc::new(first.worker().await);
        let epoch = worker.execute(run).await;
        Self {
            first,
            second,
            ports: [port, other],
            run,
            epoch,
            worker,
        }
    }

    fn follower(&self, number: usize) -> Follower {
        let path = format!("/agent/logs/{}/stream", self.run);
        let mut ports = self.ports;
        ports.rotate_left(number % 2);
        Follower::new(path, Api::token("u"), &ports)
    }

    /// Writes lines until told to stop, then completes the run; how many events it has. Tries again while the store is away.
    fn write(&self, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<i64> {
        let (worker, run, epoch) = (self.worker.clone(), self.run, self.epoch);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(EVERY);
            while !stop.load(Ordering::SeqCst) {
                tick.tick().await;
                if let Ok(done) = worker.orchestration.progress(run, epoch, lines(1)).await {
                    worker.queue.publish(&done.events).await.ok();
                }
            }
            worker.complete(run, epoch).await;
            let head = runs::Reader::new(worker.db.clone())
                .head(run)
                .await
                .unwrap()
                .unwrap();
            head.last_seq
        })
    }
}

async fn another(api: &Api, redis_url: &str) -> (Process, u16) {
    let ports = (free_port(), free_port());
    let process = program(&api.db_url, redis_url, ports, &[("LOG_LEVEL", "warn")]).start();
    let url = format!("http://127.0.0.1:{}/ready", ports.0);
    eventually(LIMIT, || async {
        let answer = api.client.get(&url).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    (process, ports.0)
}

fn lost(followers: &[Follower], count: i64) -> f64 {
    followers
        .iter()
        .map(|follower| count - follower.seen)
        .sum::<i64>() as f64
}

async fn redis_cut() -> Vec<Figure> {
    let postgres = Postgres::start().await;
    let redis = Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    let through = format!("redis://127.0.0.1:{}", proxy.port());
    let scene = Scene::start(postgres.migrated_database().await, redis, &through).await;
    let followers: Vec<_> = (0..100)
        .map(|number| tokio::spawn(scene.follower(number).follow(LIMIT)))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = scene.write(stop.clone());
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.sever();
    tokio::time::sleep(Duration::from_secs(30)).await;
    proxy.restore();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    let followers: Vec<Follower> = join_all(followers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let longest = followers
        .iter()
        .map(|follower| follower.longest_gap)
        .max()
        .unwrap();
    vec![
        Figure::new("redis-cut: events of 100 viewers each", "", count as f64),
        Figure::new("redis-cut: lost", "", lost(&followers, count)).at_most(0.0),
        Figure::new("redis-cut: longest pause", "s", longest.as_secs_f64()).at_most(2.5),
    ]
}

async fn postgres_cut() -> Vec<Figure> {
    let mut postgres = Postgres::start().await;
    let redis = Redis::start().await;
    let redis_url = redis.url();
    let scene = Scene::start(postgres.migrated_database().await, redis, &redis_url).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = scene.write(stop.clone());
    let follow = |number: usize| {
        let mut follower = scene.follower(number);
        tokio::spawn(async move {
            let mut stream = follower.open().await.expect("a stream");
            while follower.read(&mut stream).await {}
            follower
        })
    };
    let followers: Vec<_> = (0..20).map(follow).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    postgres.stop();
    let away = Instant::now();
    let followers: Vec<Follower> = join_all(followers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let told: Vec<f64> = followers
        .iter()
        .map(|follower| (follower.interrupted.expect("told") - away).as_secs_f64())
        .collect();
    let retries = followers
        .iter()
        .filter(|follower| follower.retry_ms != 5_000)
        .count();
    postgres.restart().await;
    let goes_on = join_all(followers.into_iter().map(|follower| follower.follow(LIMIT)));
    let goes_on = tokio::spawn(goes_on);
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    let followers = goes_on.await.unwrap();
    let longest = told.iter().copied().fold(0.0, f64::max);
    let shortest = told.iter().copied().fold(f64::MAX, f64::min);
    vec![
        Figure::new("postgres-cut: first stream interrupted after", "s", shortest).at_least(29.0),
        Figure::new("postgres-cut: last stream interrupted after", "s", longest).at_most(45.0),
        Figure::new("postgres-cut: without retry 5000", "", retries as f64).at_most(0.0),
        Figure::new("postgres-cut: lost", "", lost(&followers, count)).at_most(0.0),
    ]
}

/// Each of ten processes in turn is told to end while it has 1,000 streams; all move to the next.
async fn shutdowns() -> Vec<Figure> {
    const ROUNDS: usize = 10;
    let postgres = Postgres::start().await;
    let redis = Redis::start().await;
    let redis_url = redis.url();
    let mut scene = Scene::start(postgres.migrated_database().await, redis, &redis_url).await;
    let followers: Vec<_> = (0..1_000)
        .map(|_| {
            let follower = scene.follower(1);
            tokio::spawn(follower.follow(LIMIT))
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = scene.write(stop.clone());
    let mut longest = 0.0_f64;
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let begun = Instant::now();
        scene.second.term();
        assert_eq!(scene.second.wait(LIMIT).await.code(), Some(0));
        longest = longest.max(begun.elapsed().as_secs_f64());
        // On the same port: the clients of the other process come back when that one ends.
        let ports = (scene.ports[1], free_port());
        let again = program(&scene.first.db_url, &redis_url, ports, &[("LOG_LEVEL", "warn")]);
        let old = std::mem::replace(&mut scene.second, again.start());
        drop(old);
        std::mem::swap(&mut scene.second, &mut scene.first.process);
        scene.ports.swap(0, 1);
    }
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    let followers: Vec<Follower> = join_all(followers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    vec![
        Figure::new(
            format!("shutdown: events of 1,000 viewers over {ROUNDS} shutdowns"),
            "",
            count as f64,
        ),
        Figure::new("shutdown: lost", "", lost(&followers, count)).at_most(0.0),
        Figure::new("shutdown: longest until exit", "s", longest).at_most(10.0),
    ]
}

/// A process on `STREAM_PORT` for a browser or a proxy; with `STREAM_RESTART` it is restarted once somebody watches, and the
/// run comes to its end. Writes run, token and ticket to `STREAM_FILE`; ends when the file is removed.
async fn serve() -> Vec<Figure> {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let (port, file): (u16, _) = (of("STREAM_PORT").parse().unwrap(), of("STREAM_FILE"));
    let postgres = Postgres::start().await;
    let redis = Redis::start().await;
    let redis_url = redis.url();
    let mut scene = Scene::start(postgres.migrated_database().await, redis, &redis_url).await;
    let ports = (port, free_port());
    let start = || program(&scene.first.db_url, &redis_url, ports, &[]).start();
    let mut watched = start();
    let url = format!("http://127.0.0.1:{port}/ready");
    eventually(LIMIT, async || scene.first.client.get(&url).send().await.is_ok()).await;
    let asked = scene.first.post(
        "u",
        &format!("/agent/run/{}/ticket", scene.run),
        &serde_json::json!({}),
    );
    let ticket: serde_json::Value = asked.send().await.unwrap().json().await.unwrap();
    let told = serde_json::json!({"run": scene.run, "token": Api::token("u"), "ticket": ticket["ticket"]});
    std::fs::write(format!("{file}.new"), told.to_string()).unwrap();
    std::fs::rename(format!("{file}.new"), &file).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = scene.write(stop.clone());
    if !of("STREAM_RESTART").is_empty() {
        let metrics = format!("http://127.0.0.1:{port}/metrics");
        eventually(LIMIT, async || {
            let text = scene
                .first
                .client
                .get(&metrics)
                .send()
                .await
                .unwrap()
                .text()
                .await;
            text.unwrap().contains("\nstream_subscribers 1\n")
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        watched.term();
        watched.wait(LIMIT).await;
        let old = std::mem::replace(&mut watched, start());
        drop(old);
        tokio::time::sleep(Duration::from_secs(8)).await;
        stop.store(true, Ordering::SeqCst);
        let count = writing.await.unwrap();
        std::fs::write(format!("{file}.count"), count.to_string()).unwrap();
    }
    eventually(LIMIT, async || !std::path::Path::new(&file).exists()).await;
    stop.store(true, Ordering::SeqCst);
    scene.second.term();
    vec![]
}
