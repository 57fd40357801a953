//! The faults: what each kind is called, and how it is done.

use std::time::{Duration, Instant};

use crate::clock::OwnClock;
use crate::disk::SmallDisk;
use crate::resp::{Client, Reply};
use crate::sql::{SESSION_NAME, Sql};
use crate::system::{Node, StoreName, System};

/// Faults that pass at once; many per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    /// `CLIENT KILL TYPE normal`: every connection of every program to Redis.
    RedisClientKill,
    /// `SCRIPT FLUSH`: every EVALSHA is unknown.
    RedisScriptFlush,
    /// `CLIENT PAUSE` for a moment.
    RedisClientPause,
    /// A script that keeps Redis busy for a moment: as `DEBUG SLEEP`, which the server's settings forbid.
    RedisBusy,
    /// SIGSTOP of Redis for a moment.
    RedisFreeze,
    /// `pg_terminate_backend` of one session of a program.
    BackendKill,
    /// `pg_terminate_backend` of every session that is inside a transaction or a commit.
    BackendKillBusy,
    /// All connections of one link are cut.
    LinkCut,
    /// The next reply on one link is lost, with its connection: the request was carried out.
    ReplyLost,
    /// Connections of one link are cut after a few bytes, for a moment.
    LinkShort,
    /// One link stops forwarding for a moment.
    LinkHiccup,
}

impl Light {
    pub const ALL: [Self; 11] = [
        Self::RedisClientKill,
        Self::RedisScriptFlush,
        Self::RedisClientPause,
        Self::RedisBusy,
        Self::RedisFreeze,
        Self::BackendKill,
        Self::BackendKillBusy,
        Self::LinkCut,
        Self::ReplyLost,
        Self::LinkShort,
        Self::LinkHiccup,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RedisClientKill => "redis_client_kill",
            Self::RedisScriptFlush => "redis_script_flush",
            Self::RedisClientPause => "redis_client_pause",
            Self::RedisBusy => "redis_busy",
            Self::RedisFreeze => "redis_freeze",
            Self::BackendKill => "backend_kill",
            Self::BackendKillBusy => "backend_kill_busy",
            Self::LinkCut => "link_cut",
            Self::ReplyLost => "reply_lost",
            Self::LinkShort => "link_short",
            Self::LinkHiccup => "link_hiccup",
        }
    }

    /// Is it done to one link of one program?
    pub const fn needs_link(self) -> bool {
        matches!(
            self,
            Self::LinkCut | Self::ReplyLost | Self::LinkShort | Self::LinkHiccup
        )
    }
}

/// Faults that last or destroy; one every second or three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heavy {
    WorkerKill,
    /// SIGSTOP shorter or longer than the lease, then SIGCONT.
    WorkerStop,
    /// SIGTERM and a new start, as in a rolling deploy.
    WorkerTerm,
    ApiKill,
    ApiStop,
    /// The API's link to Redis is held until it has committed what it cannot push, then it is killed.
    ApiKillBeforePush,
    /// SIGKILL, started again on its data.
    RedisKill,
    /// SIGKILL, its data removed, started again empty.
    RedisLoss,
    RedisFlushall,
    /// One link forwards nothing for seconds.
    LinkStall,
    /// One link closes every connection at once, for seconds.
    LinkDown,
    PostgresRestart,
    /// SIGQUIT: recovery at the next start.
    PostgresCrash,
    S3Stop,
    /// Not one more byte fits on the S3 store's disk for seconds.
    DiskFull,
    /// More busy threads than CPUs for seconds.
    CpuBusy,
    /// The wall clock of one worker jumps and comes back.
    ClockStep,
}

impl Heavy {
    pub const ALL: [Self; 17] = [
        Self::WorkerKill,
        Self::WorkerStop,
        Self::WorkerTerm,
        Self::ApiKill,
        Self::ApiStop,
        Self::ApiKillBeforePush,
        Self::RedisKill,
        Self::RedisLoss,
        Self::RedisFlushall,
        Self::LinkStall,
        Self::LinkDown,
        Self::PostgresRestart,
        Self::PostgresCrash,
        Self::S3Stop,
        Self::DiskFull,
        Self::CpuBusy,
        Self::ClockStep,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkerKill => "worker_kill",
            Self::WorkerStop => "worker_stop",
            Self::WorkerTerm => "worker_term",
            Self::ApiKill => "api_kill",
            Self::ApiStop => "api_stop",
            Self::ApiKillBeforePush => "api_kill_before_push",
            Self::RedisKill => "redis_kill",
            Self::RedisLoss => "redis_loss",
            Self::RedisFlushall => "redis_flushall",
            Self::LinkStall => "link_stall",
            Self::LinkDown => "link_down",
            Self::PostgresRestart => "postgres_restart",
            Self::PostgresCrash => "postgres_crash",
            Self::S3Stop => "s3_stop",
            Self::DiskFull => "disk_full",
            Self::CpuBusy => "cpu_busy",
            Self::ClockStep => "clock_step",
        }
    }

    /// Entries of the lists may be gone afterwards. A killed Redis may have acknowledged what its log did not have yet.
    pub const fn loses_redis(self) -> bool {
        matches!(self, Self::RedisKill | Self::RedisLoss | Self::RedisFlushall)
    }
}

/// One command to Redis, past the proxies. `None` when Redis does not answer.
pub async fn redis(system: &System, words: &[&str]) -> Option<Reply> {
    let mut client = Client::connect(system.redis_port).await.ok()?;
    client.call(words).await.ok()
}

/// Does a light fault; `for_ms` is how long the momentary ones last.
pub async fn light(system: &System, fault: Light, node: &Node, store: StoreName, for_ms: u64) {
    let moment = Duration::from_millis(for_ms);
    match fault {
        Light::RedisClientKill => drop(redis(system, &["CLIENT", "KILL", "TYPE", "normal"]).await),
        Light::RedisScriptFlush => drop(redis(system, &["SCRIPT", "FLUSH"]).await),
        Light::RedisClientPause => drop(redis(system, &["CLIENT", "PAUSE", &for_ms.to_string()]).await),
        Light::RedisBusy => {
            let script = "for i = 1, tonumber(ARGV[1]) do redis.call('PING') end";
            let rounds = (for_ms * 1_000).to_string();
            drop(redis(system, &["EVAL", script, "0", &rounds]).await);
        }
        Light::RedisFreeze => {
            // Whoever kills Redis holds the lock; then there is nothing to freeze.
            let Ok(mut redis) = system.stores.redis.try_lock() else {
                return;
            };
            redis.pause();
            tokio::time::sleep(moment).await;
            redis.unpause();
        }
        Light::BackendKill => terminate_backends(system, "ORDER BY random() LIMIT 1").await,
        Light::BackendKillBusy => {
            terminate_backends(system, "AND state IN ('active', 'idle in transaction')").await;
        }
        Light::LinkCut => {
            node.links.to(store).sever();
            node.links.to(store).restore();
        }
        Light::ReplyLost => node.links.to(store).drop_next_reply(),
        Light::LinkShort => {
            node.links.to(store).cut_every(2_000);
            tokio::time::sleep(moment).await;
            node.links.to(store).restore();
        }
        Light::LinkHiccup => {
            node.links.to(store).stall();
            tokio::time::sleep(moment).await;
            node.links.to(store).restore();
        }
    }
}

async fn terminate_backends(system: &System, which: &str) {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity
          WHERE datname = current_database() AND application_name <> '{SESSION_NAME}'
            AND backend_type = 'client backend' {which}) AS doomed"
    );
    // Postgres may be away just now: then there is nothing to terminate.
    drop(Sql::new(&system.database_url).rows(&sql, &[]).await);
}

/// Kills the worker or API and starts it again after `down`.
pub async fn kill(node: &Node, down: Duration) {
    node.kill();
    tokio::time::sleep(down).await;
    node.start();
}

/// SIGSTOP for this long.
pub async fn stop(node: &Node, stopped: Duration) {
    if node.pause() {
        tokio::time::sleep(stopped).await;
        node.unpause();
    }
}

/// Lets the API commit what it cannot push, kills it there, and starts it again after `down`.
pub async fn kill_before_push(node: &Node, hold: Duration, down: Duration) {
    node.links.to(StoreName::Redis).stall();
    tokio::time::sleep(hold).await;
    node.kill();
    node.links.to(StoreName::Redis).restore();
    tokio::time::sleep(down).await;
    node.start();
}

/// SIGKILL of Redis and a new start after `down`; without its data when `lose`.
pub async fn kill_redis(system: &System, lose: bool, down: Duration) {
    let mut redis = system.stores.redis.lock().await;
    redis.kill();
    if lose {
        let log = redis.dir().join("appendonlydir");
        if let Err(error) = std::fs::remove_dir_all(&log) {
            eprintln!("chaos: {} is not removed: {error}", log.display());
        }
    }
    tokio::time::sleep(down).await;
    redis.restart().await;
}

/// A fast shutdown or a crash of Postgres, and a new start after `down`.
pub async fn restart_postgres(system: &System, crash: bool, down: Duration) {
    let mut postgres = system.stores.postgres.lock().await;
    if crash {
        postgres.kill();
    } else {
        postgres.stop();
    }
    tokio::time::sleep(down).await;
    postgres.restart().await;
}

pub async fn stop_s3(system: &System, down: Duration) {
    let mut s3 = system.stores.s3.lock().await;
    s3.stop().await;
    tokio::time::sleep(down).await;
    s3.restart().await;
}

/// The disk of the S3 store is full for this long.
pub async fn fill_disk(disk: &SmallDisk, full: Duration) {
    if let Err(error) = disk.fill() {
        eprintln!("chaos: the disk is not filled: {error}");
    }
    tokio::time::sleep(full).await;
    if let Err(error) = disk.free() {
        eprintln!("chaos: the disk is not freed: {error}");
    }
}

/// One link refuses or holds everything for this long.
pub async fn break_link(node: &Node, store: StoreName, refuse: bool, down: Duration) {
    if refuse {
        node.links.to(store).sever();
    } else {
        node.links.to(store).stall();
    }
    tokio::time::sleep(down).await;
    node.links.to(store).restore();
}

/// The program's clock is `seconds` away from the others' for this long.
pub async fn step_clock(clock: &OwnClock, seconds: i64, time: Duration) {
    for offset in [seconds, 0] {
        if let Err(error) = clock.set(offset) {
            eprintln!("chaos: the clock is not set: {error}");
        }
        tokio::time::sleep(time).await;
    }
}

/// Twice as many busy threads as there are CPUs.
pub async fn burn_cpus(busy: Duration) {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get) * 2;
    let until = Instant::now() + busy;
    let burn = move || {
        let mut number = 1_u64;
        while Instant::now() < until {
            for _ in 0..10_000 {
                number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        }
    };
    let handles: Vec<_> = (0..threads).map(|_| std::thread::spawn(burn)).collect();
    tokio::time::sleep(busy).await;
    for handle in handles {
        handle.join().expect("a busy thread does not panic");
    }
}
