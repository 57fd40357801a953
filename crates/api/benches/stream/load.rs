//! The load process: many viewers over bare sockets, each of which checks its order.
//!
//! `--load PORT VIEWERS RUN,RUN… [--from-start|--hold]`; prints `open`, reads the commits up to `end` from its input, waits for
//! the ends of the streams (with `--hold` it leaves at once), prints what it saw as JSON.

use crate::support::now_us;
use futures::StreamExt as _;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;
use testkit::{Watch, frame_id};
use tokio_util::sync::CancellationToken;

const OPENING_AT_ONCE: usize = 64;

#[derive(Debug, Default)]
struct Seen {
    run: usize,
    bytes: u64,
    /// Seq and when it came.
    events: Vec<(i64, u64)>,
    faults: u64,
    complete: bool,
}

pub(crate) async fn run(words: &[&str]) {
    let [port, viewers, runs, rest @ ..] = words else {
        panic!("--load PORT VIEWERS RUNS")
    };
    let (port, viewers): (u16, usize) = (port.parse().unwrap(), viewers.parse().unwrap());
    let runs: Vec<String> = runs.split(',').map(str::to_owned).collect();
    let query = if rest.contains(&"--from-start") {
        ""
    } else {
        "?tail=0"
    };
    let token = std::env::var("LOAD_TOKEN").unwrap();
    let paths: Vec<String> = runs
        .iter()
        .map(|run| format!("/agent/logs/{run}/stream{query}"))
        .collect();
    let began_us = now_us();
    let open = |number: usize| {
        let (path, token) = (paths[number % runs.len()].clone(), token.clone());
        async move {
            let stream = Watch::open(port, &path, &token, None).await.unwrap();
            (number, stream.expect("a stream"))
        }
    };
    let streams: Vec<(usize, Watch)> = futures::stream::iter((0..viewers).map(open))
        .buffer_unordered(OPENING_AT_ONCE)
        .collect()
        .await;
    println!("open");
    let stop = CancellationToken::new();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|(number, stream)| {
            let seen = read(stream, number % runs.len());
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut kept = Seen::default();
                tokio::select! {
                    seen = seen => kept = seen,
                    () = stop.cancelled() => {}
                }
                kept
            })
        })
        .collect();
    let commits = commits(&runs).await;
    if rest.contains(&"--hold") {
        stop.cancel();
    }
    let mut all = vec![];
    for reader in readers {
        let seen = tokio::time::timeout(Duration::from_mins(2), reader).await;
        all.push(seen.expect("streams end").unwrap());
    }
    println!("{}", summary(&all, &commits, began_us));
}

async fn read(mut stream: Watch, run: usize) -> Seen {
    let mut seen = Seen {
        run,
        ..Seen::default()
    };
    loop {
        let mut at = 0;
        let more = stream
            .read(|frame| {
                seen.bytes += frame.len() as u64 + 2;
                let Some(id) = frame_id(frame) else { return };
                if at == 0 {
                    at = now_us();
                }
                let follows = seen.events.last().is_none_or(|(last, _)| last + 1 == id);
                seen.faults += u64::from(!follows);
                seen.complete |= frame.contains("{\"type\":\"complete\"");
                seen.events.push((id, at));
            })
            .await;
        if !more || seen.complete {
            return seen;
        }
    }
}

/// Reads the lines `RUN SEQ µs` up to `end`.
async fn commits(runs: &[String]) -> HashMap<(usize, i64), u64> {
    let lines = tokio::task::spawn_blocking(|| {
        let lines = std::io::stdin().lines().map(Result::unwrap);
        lines.take_while(|line| line != "end").collect::<Vec<_>>()
    });
    let mut commits = HashMap::new();
    for line in lines.await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        let [run, seq, at] = words[..] else {
            panic!("a commit: {line}")
        };
        let run = runs.iter().position(|own| own == run).unwrap();
        commits.insert((run, seq.parse().unwrap()), at.parse().unwrap());
    }
    commits
}

fn summary(all: &[Seen], commits: &HashMap<(usize, i64), u64>, began_us: u64) -> serde_json::Value {
    let mut lags_us: Vec<u64> = vec![];
    let (mut first, mut last, mut events) = (u64::MAX, 0, 0_u64);
    for seen in all {
        events += seen.events.len() as u64;
        for (seq, at) in &seen.events {
            first = first.min(*at);
            last = last.max(*at);
            if let Some(committed) = commits.get(&(seen.run, *seq)) {
                lags_us.push(at.saturating_sub(*committed));
            }
        }
    }
    lags_us.sort_unstable();
    let at = |share: f64| {
        let rank = ((share * lags_us.len() as f64).ceil() as usize).max(1) - 1;
        lags_us.get(rank).map_or(-1.0, |lag| *lag as f64 / 1e3)
    };
    json!({
        "events": events,
        "bytes": all.iter().map(|seen| seen.bytes).sum::<u64>(),
        "faults": all.iter().map(|seen| seen.faults).sum::<u64>(),
        "incomplete": all.iter().filter(|seen| !seen.complete).count(),
        "seconds": last.saturating_sub(first) as f64 / 1e6,
        "seconds_from_opening": last.saturating_sub(began_us) as f64 / 1e6,
        "lags": lags_us.len(),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "max_ms": at(1.0),
    })
}
