//! Workers that are told to leave: what they hold goes back at once, to the front, unused; whatever the stores do.

use crate::support::{LONG, SOON, Setup, System, message, processes_with, script, shell, sleep_ms};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, eventually};

async fn claims_and_attempts(system: &System, run: &str) -> (i64, i32, i32) {
    let sql = "SELECT fencing_token, retry_count, crash_count FROM agent_runs WHERE id::text = $1";
    let row = &system.sql(sql, run).await[0];
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_between_steps_goes_back_to_the_front_at_once_and_is_the_next_to_go_on() {
    let mut system = Setup::workers(1)
        .worker_env("WORKER_CONCURRENCY", "1")
        .start()
        .await;
    let run = system
        .begin(&script(&[message("one"), sleep_ms(3_000), message("two")]))
        .await;
    system.wait_steps(&run, "completed", 1).await;
    let mut behind = Vec::new();
    for _ in 0..3 {
        behind.push(system.begin(&script(&[message("behind")])).await);
    }
    eventually(SOON, || async { system.length("pending") == 3 }).await;
    system.workers[0].term();
    let told = Instant::now();
    let status = system.workers[0].wait(SOON).await;
    println!("left between steps after {:?}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    // Jobs are taken from the other end of the list.
    let line: Vec<_> = system.jobs("pending").into_iter().rev().collect();
    let order: Vec<_> = line.iter().map(|job| job["run_id"].as_str().unwrap()).collect();
    assert_eq!(order, [run.as_str(), &behind[0], &behind[1], &behind[2]]);
    assert_eq!(line[0]["attempt"], 1);
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    system.add_worker().await;
    system.wait_status(&behind[2], "completed", LONG).await;
    assert_eq!(system.status(&run).await, "completed");
    let first = "SELECT (SELECT min(completed_at) FROM agent_runs WHERE id::text = $1)
        = (SELECT min(completed_at) FROM agent_runs) FROM agent_runs LIMIT 1";
    assert!(
        system.sql(first, &run).await[0].get::<_, bool>(0),
        "not the next one"
    );
    assert_eq!(claims_and_attempts(&system, &run).await, (2, 0, 0));
    assert_eq!(system.steps(&run, "completed").await, 2);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_the_running_step_and_hands_it_back_at_once() {
    let mut system = Setup::workers(1).start().await;
    let stubborn = shell("trap '' TERM INT HUP; sleep 6421; sleep 6421");
    let run = system.begin(&script(&[message("one"), stubborn])).await;
    eventually(SOON, || async { processes_with("6421") > 0 }).await;
    system.workers[0].interrupt();
    let readyz = format!("http://127.0.0.1:{}/readyz", system.admin[0]);
    eventually(SOON, || async { system.code(&readyz).await == Some(503) }).await;
    assert!(system.workers[0].ended().is_none(), "a running step may end");
    system.workers[0].term();
    let told = Instant::now();
    let status = system.workers[0].wait(SOON).await;
    println!("left at the second signal after {:?}", told.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert_eq!(processes_with("6421"), 0);
    assert_eq!(system.jobs("pending")[0]["attempt"], 1);
    assert_eq!(claims_and_attempts(&system, &run).await, (1, 0, 0));
    assert_eq!(system.act("stop", &run).await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_leaves_in_time_also_while_the_stores_are_away() {
    const GRACE: Duration = Duration::from_secs(2);
    const AFTER_GRACE: Duration = Duration::from_secs(5);
    let mut system = Setup::workers(0).proxied().own_postgres().start().await;
    let postgres = FaultProxy::start(system.postgres.as_ref().unwrap().port()).await;
    let own_port = format!(":{}/", system.postgres.as_ref().unwrap().port());
    let through = system
        .database_url
        .replace(&own_port, &format!(":{}/", postgres.port()));
    assert_ne!(through, system.database_url);
    system.worker_env = vec![
        ("DATABASE_URL", through),
        ("WORKER_SHUTDOWN_GRACE_SECONDS", GRACE.as_secs().to_string()),
    ];
    // Away: (redis, postgres); cut or silent.
    for (number, (redis, database, silent)) in [
        (true, false, false),
        (true, false, true),
        (false, true, false),
        (true, true, true),
    ]
    .into_iter()
    .enumerate()
    {
        system.add_worker().await;
        let argument = format!("73{number}5");
        let run = system
            .begin(&script(&[message("one"), shell(&format!("sleep {argument}"))]))
            .await;
        eventually(SOON, || async { processes_with(&argument) > 0 }).await;
        let break_it = |proxy: &FaultProxy| if silent { proxy.stall() } else { proxy.cut() };
        if redis {
            break_it(system.proxy.as_ref().unwrap());
        }
        if database {
            break_it(&postgres);
        }
        system.workers[number].term();
        let told = Instant::now();
        let status = system.workers[number].wait(SOON).await;
        let took = told.elapsed();
        println!("redis away {redis}, postgres away {database}, silent {silent}: left after {took:?}");
        assert_eq!(status.code(), Some(0));
        assert!(took < GRACE + AFTER_GRACE, "{took:?}");
        eventually(SOON, || async { processes_with(&argument) == 0 }).await;
        system.proxy.as_ref().unwrap().restore();
        postgres.restore();
        system.wait_ready(SOON).await;
        system.act("stop", &run).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_reaches_no_store_stops_its_step_before_another_could_own_the_run() {
    let mut system = Setup::workers(0).proxied().own_postgres().start().await;
    let port = system.postgres.as_ref().unwrap().port();
    let postgres = FaultProxy::start(port).await;
    let through = system
        .database_url
        .replace(&format!(":{port}/"), &format!(":{}/", postgres.port()));
    system.worker_env = vec![("DATABASE_URL", through)];
    system.add_worker().await;
    let run = system.begin(&script(&[shell("sleep 5319")])).await;
    eventually(SOON, || async { processes_with("5319") > 0 }).await;
    let left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM agent_runs WHERE id::text = $1";
    postgres.stall();
    system.proxy.as_ref().unwrap().stall();
    // Watched every 10 ms, so the last look with the process there is at most that old.
    eventually(SOON, || async { processes_with("5319") == 0 }).await;
    let seconds: f64 = system.sql(left, &run).await[0].get(0);
    println!("the step was gone {seconds:.1} s before the lease ran out");
    assert!(seconds > 0.0, "the lease ran out {} s earlier", -seconds);
    postgres.restore();
    system.proxy.as_ref().unwrap().restore();
    system.wait_ready(SOON).await;
    system.act("stop", &run).await;
}
