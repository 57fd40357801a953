//! Redis in every kind of trouble: starts are accepted meanwhile, the worker consumes again within seconds, and nothing is
//! executed twice. One system serves all faults, one after the other.
//!
//! `LIVENESS_ROUNDS=8 cargo test -p cli --test e2e liveness -- --nocapture` drills longer and prints the figures.

use crate::support::{LONG, SOON, Setup, System, message, script, shell};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, Redis, eventually, eventually_some};

/// Consuming again after Redis answers.
const CONSUMING_AGAIN: Duration = Duration::from_secs(5);
/// How long a fault that does not end by itself lasts.
const LASTS: Duration = Duration::from_millis(2500);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    RestartWithData,
    RestartWithoutData,
    StalledAndRestored,
    StalledForEver,
    ClientsKilled,
    ClientsPaused,
    Frozen,
    Failover,
    ScriptsFlushed,
    ReadOnly,
    Full,
    Loading,
    Busy,
    CannotSave,
}

const FAULTS: [Fault; 14] = [
    Fault::RestartWithData,
    Fault::StalledAndRestored,
    Fault::StalledForEver,
    Fault::ClientsKilled,
    Fault::ClientsPaused,
    Fault::Frozen,
    Fault::Failover,
    Fault::ScriptsFlushed,
    Fault::ReadOnly,
    Fault::Full,
    Fault::Loading,
    Fault::Busy,
    Fault::CannotSave,
    Fault::RestartWithoutData,
];

struct Drill {
    system: System,
    /// Becomes the primary in a failover, and is the source of what a loading server loads.
    spare: Redis,
}

impl Drill {
    fn proxy(&self) -> &FaultProxy {
        self.system.proxy.as_ref().unwrap()
    }

    fn cli(&self, args: &[&str]) -> String {
        self.system.redis.cli(args)
    }

    /// Puts the fault into force.
    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::RestartWithData | Fault::RestartWithoutData => self.system.redis.kill(),
            Fault::StalledAndRestored => self.proxy().stall(),
            Fault::StalledForEver => self.proxy().hold_present(),
            Fault::ClientsKilled => drop(self.cli(&["CLIENT", "KILL", "TYPE", "normal"])),
            Fault::ClientsPaused => {
                let ms = LASTS.as_millis().to_string();
                self.cli(&["CLIENT", "PAUSE", &ms, "ALL"]);
            }
            Fault::Frozen => self.system.redis.pause(),
            Fault::Failover => {
                follow(&self.spare, self.system.redis.port()).await;
                self.system.redis.kill();
            }
            Fault::ScriptsFlushed => drop(self.cli(&["SCRIPT", "FLUSH"])),
            // Nobody listens at port 1: read-only, and the data stays.
            Fault::ReadOnly => drop(self.cli(&["REPLICAOF", "127.0.0.1", "1"])),
            Fault::Full => drop(self.cli(&["CONFIG", "SET", "maxmemory", "1"])),
            Fault::Loading => {
                self.spare.cli(&[
                    "EVAL",
                    "for i = 1, 1500 do redis.call('SET', 'x' .. i, i) end",
                    "0",
                ]);
                self.cli(&["CONFIG", "SET", "key-load-delay", "1000"]);
                self.cli(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
                let port = self.spare.port().to_string();
                self.cli(&["REPLICAOF", "127.0.0.1", &port]);
                eventually(SOON, || async {
                    self.cli(&["INFO", "persistence"]).contains("\nloading:1")
                })
                .await;
            }
            Fault::Busy => {
                self.cli(&["CONFIG", "SET", "lua-time-limit", "100"]);
                let port = self.system.redis.port().to_string();
                let endless = ["-p", &port, "EVAL", "while true do end", "0"];
                let mut endless = std::process::Command::new("redis-cli")
                    .args(endless)
                    .spawn()
                    .unwrap();
                std::thread::spawn(move || endless.wait());
            }
            Fault::CannotSave => {
                let dump = self.system.redis.dir().join("dump.rdb");
                // Left by a replication.
                std::fs::remove_file(&dump).ok();
                std::fs::create_dir_all(dump.join("in-the-way")).unwrap();
                self.cli(&["CONFIG", "SET", "save", "3600 1000000"]);
                self.cli(&["BGSAVE"]);
                eventually(SOON, || async {
                    self.cli(&["SET", "probe", "1"]).contains("MISCONF")
                })
                .await;
            }
        }
    }

    /// Ends it; Redis answers when this returns.
    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::RestartWithData => self.system.redis.restart().await,
            Fault::RestartWithoutData => {
                std::fs::remove_dir_all(self.system.redis.dir().join("appendonlydir")).unwrap();
                self.system.redis.restart().await;
            }
            Fault::StalledAndRestored => self.proxy().restore(),
            Fault::StalledForEver | Fault::ClientsKilled | Fault::ClientsPaused | Fault::ScriptsFlushed => {}
            Fault::Frozen => self.system.redis.unpause(),
            Fault::Failover => {
                self.spare.cli(&["REPLICAOF", "NO", "ONE"]);
                std::mem::swap(&mut self.system.redis, &mut self.spare);
                self.proxy().retarget(self.system.redis.port());
                let answers = Instant::now();
                self.spare.restart().await;
                self.spare.cli(&["FLUSHALL"]);
                assert!(answers.elapsed() < Duration::from_secs(2));
            }
            Fault::ReadOnly => drop(self.cli(&["REPLICAOF", "NO", "ONE"])),
            Fault::Full => drop(self.cli(&["CONFIG", "SET", "maxmemory", "0"])),
            Fault::Loading => {
                self.cli(&["CONFIG", "SET", "key-load-delay", "0"]);
                self.cli(&["REPLICAOF", "NO", "ONE"]);
                self.spare.cli(&["FLUSHALL"]);
            }
            Fault::Busy => drop(self.cli(&["SCRIPT", "KILL"])),
            Fault::CannotSave => {
                let dump = self.system.redis.dir().join("dump.rdb");
                std::fs::remove_dir_all(dump).unwrap();
                self.cli(&["CONFIG", "SET", "save", ""]);
            }
        }
    }

    /// One fault with a start in the middle of it; the time from Redis' first answer to the end of the started run.
    async fn trial(&mut self, fault: Fault) -> Duration {
        let run = self
            .system
            .create(&script(&[message("one"), message("two")]))
            .await;
        self.begin(fault).await;
        let begun = Instant::now();
        assert_eq!(
            self.system.act("start", &run).await["status"],
            "queued",
            "{fault:?}"
        );
        let over_at_once = [Fault::StalledForEver, Fault::ClientsKilled, Fault::ScriptsFlushed];
        if !over_at_once.contains(&fault) {
            tokio::time::sleep(LASTS.saturating_sub(begun.elapsed())).await;
        }
        self.end(fault).await;
        let answers = if over_at_once.contains(&fault) {
            begun
        } else {
            Instant::now()
        };
        self.system.wait_status(&run, "completed", LONG).await;
        let took = answers.elapsed();
        assert_eq!(self.system.steps(&run, "completed").await, 2, "{fault:?}");
        let token = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
        assert_eq!(
            self.system.count(token, &run).await,
            1,
            "{fault:?}: executed twice"
        );
        assert!(
            self.system.workers[0].ended().is_none(),
            "{fault:?} ended the worker"
        );
        took
    }
}

/// Makes `replica` a replica of the server at `port` and waits until it has all.
async fn follow(replica: &Redis, port: u16) {
    replica.cli(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
    eventually(SOON, || async {
        replica
            .cli(&["INFO", "replication"])
            .contains("master_link_status:up")
    })
    .await;
}

fn rounds() -> usize {
    std::env::var("LIVENESS_ROUNDS").map_or(1, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_consumes_again_within_five_seconds_after_every_fault_of_redis() {
    let system = Setup::workers(1).proxied().start().await;
    let mut drill = Drill {
        system,
        spare: Redis::start().await,
    };
    let mut late = Vec::new();
    for round in 0..rounds() {
        for fault in FAULTS {
            let took = drill.trial(fault).await;
            println!("{round} {fault:?}: {} ms", took.as_millis());
            if took > CONSUMING_AGAIN {
                late.push((fault, took));
            }
        }
    }
    println!(
        "{} trials, {} late: {late:?}",
        rounds() * FAULTS.len(),
        late.len()
    );
    assert!(late.is_empty(), "{late:?}");
    drill.system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_for_long_ends_no_worker_but_a_worker_that_is_stuck_says_so_and_ends() {
    let mut system = Setup::workers(1)
        .worker_env("WORKER_SHUTDOWN_GRACE_SECONDS", "3")
        .proxied()
        .start()
        .await;
    let healthz = format!("http://127.0.0.1:{}/healthz", system.admin[0]);
    system.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let full_until = tokio::time::Instant::now() + Duration::from_secs(19);
    let meanwhile = system.begin(&script(&[message("later")])).await;
    tokio::time::sleep_until(full_until).await;
    assert_eq!(system.code(&healthz).await, Some(200));
    system.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    system.wait_status(&meanwhile, "completed", LONG).await;
    assert!(system.workers[0].ended().is_none());

    let running = system.begin(&script(&[shell("sleep 40"), message("two")])).await;
    system.wait_steps(&running, "running", 1).await;
    // Claims are sent and never answered, on every connection; other commands are.
    system.proxy.as_ref().unwrap().hold_senders_of("EVALSHA");
    let stuck = Instant::now();
    let body = eventually_some(SOON, || async {
        let answer = system.client.get(&healthz).send().await.ok()?;
        let failing = answer.status() == 503;
        let body: serde_json::Value = answer.json().await.ok()?;
        failing.then_some(body)
    });
    let body = body.await.expect("/healthz fails");
    assert_eq!(body["status"], "not_consuming", "{body}");
    assert!(stuck.elapsed() > Duration::from_secs(14), "{:?}", stuck.elapsed());
    println!("stuck noticed after {:?}", stuck.elapsed());
    assert_eq!(system.workers[0].wait(SOON).await.code(), Some(70));
    system.proxy.as_ref().unwrap().restore();
    system.act("stop", &running).await;
    let after = system.begin(&script(&[message("after")])).await;
    system.add_worker().await;
    system.wait_status(&after, "completed", LONG).await;
}
