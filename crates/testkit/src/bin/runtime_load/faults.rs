//! Load with faults: Redis away, projections lost, the process killed.

use crate::client::Client;
use crate::own::{Own, command, database};
use crate::steady::{all_events, settled};
use crate::{Verdict, ensure, setting};
use futures::future::{join, join_all};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, eventually, free_port};

const PUBLISH_ERRORS: &str = "runtime_publish_total{result=\"error\"}";
/// Acknowledged appends after which the process is killed.
const ENOUGH: usize = 200;

/// Redis is away for 60 appends: all succeed in time, and each is counted as not published. Where `REDIS_URL` names a
/// server on loopback it goes away while the service runs, else it was never there.
pub(crate) async fn redis_down() -> Verdict {
    let proxy = match setting("REDIS_URL").as_deref().and_then(loopback_port) {
        Some(port) => Some(FaultProxy::start(port).await),
        None => None,
    };
    let own = Own::start(proxy.as_ref().map_or_else(free_port, FaultProxy::port)).await?;
    let run = own.client.create().await?;
    if let Some(proxy) = &proxy {
        proxy.sever();
    }
    let before = own.client.counter(PUBLISH_ERRORS).await?;
    for n in 0..60 {
        let event = json!({"event_type": "run.delta", "payload": {"delta": "x", "n": n}});
        let started = Instant::now();
        own.client.append(&run, &event, n).await?;
        let took = started.elapsed();
        ensure(took <= Duration::from_secs(1), || {
            format!("append {n} took {took:?}")
        })?;
    }
    settled(&own.client, &run, 61).await?;
    let errors = own.client.counter(PUBLISH_ERRORS).await? - before;
    ensure(errors >= 60.0, || format!("{PUBLISH_ERRORS} rose by {errors}"))
}

/// The port of `redis://[user:password@]127.0.0.1:PORT[/…]`.
fn loopback_port(url: &str) -> Option<u16> {
    let rest = url.strip_prefix("redis://")?;
    let place = rest.rsplit('@').next()?.split('/').next()?;
    let (host, port) = place.rsplit_once(':')?;
    (rest == place && matches!(host, "127.0.0.1" | "localhost")).then(|| port.parse().ok())?
}

/// Projection rows are deleted behind the program's back, and `reproject` brings them back.
pub(crate) async fn rebuild(client: &Client) -> Verdict {
    let url = database()?;
    let run = client.create().await?;
    for n in 0..60 {
        let event = json!({"event_type": "run.delta", "payload": {"delta": "x"}});
        client.append(&run, &event, n).await?;
    }
    settled(client, &run, 61).await?;
    delete_projections(&url, &run)
        .await
        .map_err(|error| error.to_string())?;
    client.no_checkpoint(&run).await?;
    let expected = format!("run={run} action=reprojected drift=false watermark=61/61");
    command(&["reproject", "--run-id", &run], &expected)?;
    settled(client, &run, 61).await
}

async fn delete_projections(url: &str, run: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let topic = format!("run:{run}:events");
    client
        .execute(
            "DELETE FROM runtime.projection_checkpoints WHERE topic = $1",
            &[&topic],
        )
        .await?;
    client
        .execute(
            "DELETE FROM runtime.run_summaries WHERE run_id::text = $1",
            &[&run],
        )
        .await?;
    drop(client);
    connection.abort();
    Ok(())
}

/// SIGKILL while 8 writers append: after the restart every acknowledged event is there, the chain verifies and goes on.
pub(crate) async fn kill9() -> Verdict {
    let mut own = Own::start(free_port()).await?;
    let run = own.client.create().await?;
    let count = AtomicUsize::new(0);
    let client = own.client.clone();
    let writers = join_all((0..8).map(|writer| write_until_it_fails(&client, &run, writer, &count)));
    let killer = async {
        eventually(Duration::from_mins(1), || async {
            count.load(Ordering::SeqCst) >= ENOUGH
        })
        .await;
        own.kill();
    };
    let (acknowledged, ()) = join(writers, killer).await;
    let own = Own::start(free_port()).await?;
    let shown = own.client.run(&run).await?;
    let stored = shown["events"].as_array().cloned().unwrap_or_default();
    let last = stored.len() as i64;
    all_events(&shown, last)?;
    let marks: Vec<&str> = stored
        .iter()
        .filter_map(|event| event["payload"]["mark"].as_str())
        .collect();
    for mark in acknowledged.iter().flatten() {
        let times = marks.iter().filter(|stored| *stored == mark).count();
        ensure(times == 1, || {
            format!("acknowledged event {mark} is there {times} times")
        })?;
    }
    own.client
        .append(&run, &json!({"event_type": "after"}), last)
        .await?;
    let verified = format!("event chain verified: 1 runs, {} events", last + 1);
    command(&["events", "verify", "--run-id", &run], &verified)?;
    settled(&own.client, &run, last + 1).await
}

/// The marks of the events that were acknowledged.
async fn write_until_it_fails(client: &Client, run: &str, writer: usize, count: &AtomicUsize) -> Vec<String> {
    let mut acknowledged = vec![];
    loop {
        let mark = format!("{writer}-{}", acknowledged.len());
        let event = json!({"event_type": "tick", "payload": {"mark": mark}});
        if client.append(run, &event, 1_000_000).await.is_err() {
            return acknowledged;
        }
        acknowledged.push(mark);
        count.fetch_add(1, Ordering::SeqCst);
    }
}
