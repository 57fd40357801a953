//! Load without faults.

use crate::client::{Client, number};
use crate::{Verdict, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};

/// 16 writers × 20 events on one run: 321 events without a gap, projections with them.
pub(crate) async fn append_storm(client: &Client) -> Verdict {
    let run = client.create().await?;
    let writer = |writer: i32| {
        let run = &run;
        async move {
            for n in 0..20 {
                let event =
                    json!({"event_type": "run.delta", "payload": {"delta": "x", "writer": writer, "n": n}});
                client.append(run, &event, 1_000_000).await?;
            }
            Ok::<(), String>(())
        }
    };
    try_join_all((0..16).map(writer)).await?;
    let shown = client.run(&run).await?;
    all_events(&shown, 321)?;
    settled(client, &run, 321).await
}

/// 180 deltas and a finish, the checkpoint looked at after each.
pub(crate) async fn long_run(client: &Client) -> Verdict {
    let run = client.create().await?;
    let mut latest = 1;
    for n in 0..180 {
        let event = json!({"event_type": "run.delta", "payload": {"delta": format!("part {n}")}});
        latest = appended(client, &run, &event, latest).await?;
    }
    let finish = json!({"event_type": "run.finished", "payload": {"status": "succeeded"}});
    latest = appended(client, &run, &finish, latest).await?;
    let status = client.run(&run).await?["status"].clone();
    ensure(status == "succeeded", || format!("status {status}"))?;
    settled(client, &run, latest).await
}

/// Appends, and gives the seq; the checkpoint may be one behind at most.
async fn appended(client: &Client, run: &str, event: &Value, latest: i64) -> Result<i64, String> {
    let reply = client.append(run, event, latest).await?;
    let events = reply["run"]["events"].as_array().cloned().unwrap_or_default();
    let seq = number(&events.last().ok_or("a reply without the event")?["seq"])?;
    ensure(seq == latest + 1, || format!("seq {seq} after {latest}"))?;
    within_one(client.checkpoint(run).await?, seq)?;
    Ok(seq)
}

fn within_one(checkpoint: i64, latest: i64) -> Verdict {
    let lag = latest - checkpoint;
    ensure((0..=1).contains(&lag), || {
        format!("checkpoint {checkpoint} at seq {latest}")
    })
}

/// 140 heartbeats of one worker, the checkpoint looked at after each.
pub(crate) async fn heartbeats(client: &Client) -> Verdict {
    let register = json!({"owner_guest_scope": "load"});
    let made = client.worker("", Some(&register), 201).await?;
    let id = made["worker"]["worker"]["worker_id"]
        .as_str()
        .ok_or("a worker without id")?;
    let (mut latest, mut checkpoint) = (1, 0);
    for n in 0..140 {
        let beat = json!({"owner_guest_scope": "load", "metadata_patch": {"n": n}});
        let shown = client
            .worker(&format!("/{id}/heartbeat"), Some(&beat), 200)
            .await?;
        latest = number(&shown["worker"]["worker"]["latest_seq"])?;
        let shown = client.worker(&format!("/{id}/checkpoint"), None, 200).await?;
        checkpoint = number(&shown["checkpoint"]["last_seq"])?;
        within_one(checkpoint, latest)?;
    }
    ensure((latest, checkpoint) == (141, 141), || {
        format!("seq {latest}, checkpoint {checkpoint}, not 141")
    })?;
    let stop = json!({"owner_guest_scope": "load", "status": "stopped", "reason": "load ended"});
    client
        .worker(&format!("/{id}/status"), Some(&stop), 200)
        .await
        .map(drop)
}

/// Seqs 1 to `last`, each once and in order.
pub(crate) fn all_events(run: &Value, last: i64) -> Verdict {
    let events = run["events"].as_array().cloned().unwrap_or_default();
    let seqs: Vec<i64> = events.iter().filter_map(|event| event["seq"].as_i64()).collect();
    ensure((1..=last).eq(seqs.iter().copied()), || {
        format!("{} events, not 1 to {last}: {seqs:?}", seqs.len())
    })
}

/// Checkpoint and count are at `last`, and no drift is recorded.
pub(crate) async fn settled(client: &Client, run: &str, last: i64) -> Verdict {
    let (checkpoint, count) = (client.checkpoint(run).await?, client.event_count(run).await?);
    ensure((checkpoint, count) == (last, last), || {
        format!("checkpoint {checkpoint}, event_count {count}, not {last}")
    })?;
    client.no_drift(run).await
}
