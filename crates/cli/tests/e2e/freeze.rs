//! Frozen writes: what workers do while nobody may write.

use crate::support::{LONG, SOON, Setup, script, shell, write};
use testkit::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_takes_no_job_and_leaves_it_to_one_that_may_write() {
    let mut system = Setup::workers(1)
        .worker_env("RUNTIME_AUTHORITY_WRITE_MODE", "read_only")
        .start()
        .await;
    eventually(SOON, || async {
        system.workers[0].stdout().contains("no job is taken")
    })
    .await;
    let run = system.begin(&script(&[write("one.txt", "1")])).await;
    system.worker_env.clear();
    system.add_worker().await;
    system.wait_status(&run, "completed", LONG).await;
    let claims = |index: usize| system.workers[index].stdout().matches("run claimed").count();
    assert_eq!((claims(0), claims(1)), (0, 1));
    let url = format!("http://127.0.0.1:{}/healthz", system.admin[0]);
    assert_eq!(system.code(&url).await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_kept_while_the_store_takes_no_writes_and_written_afterwards() {
    let system = Setup::workers(1).own_postgres().start().await;
    let run = system
        .begin(&script(&[shell("sleep 1; printf done"), write("two.txt", "2")]))
        .await;
    system.wait_step(&run, 1, "running").await;
    system
        .sql("ALTER SYSTEM SET default_transaction_read_only = on", "")
        .await;
    system.sql("SELECT pg_reload_conf()", "").await;
    eventually(SOON, || async {
        system.workers[0].stdout().contains("the result is kept")
    })
    .await;
    assert_eq!(system.steps(&run, "running").await, 1);
    system
        .sql("ALTER SYSTEM RESET default_transaction_read_only", "")
        .await;
    system.sql("SELECT pg_reload_conf()", "").await;
    system.wait_status(&run, "completed", LONG).await;
    let once = "SELECT (retry_count + fencing_token)::bigint FROM agent_runs WHERE id::text = $1";
    assert_eq!(
        system.count(once, &run).await,
        1,
        "{}",
        system.task_log(&run).await
    );
    assert_eq!(system.steps(&run, "completed").await, 2);
}
