//! Redis' own clock: what `MONITOR` says happened when, in microseconds.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use testkit::Redis;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

/// Times by run id, in seconds of the server's clock.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pushed: HashMap<String, f64>,
    /// Pushed last and not claimed.
    waiting: Option<String>,
    claimed: HashMap<String, f64>,
    planned: HashMap<String, f64>,
}

impl Seen {
    /// Milliseconds from the push of each run's job to the first event of its worker.
    pub(crate) fn ways_ms(&self) -> Vec<f64> {
        self.ways_to(&self.planned)
    }

    /// Milliseconds from the push of each run's job to its claim by a worker.
    pub(crate) fn claims_ms(&self) -> Vec<f64> {
        self.ways_to(&self.claimed)
    }

    fn ways_to(&self, end: &HashMap<String, f64>) -> Vec<f64> {
        let way = |(run, pushed): (&String, &f64)| Some((end.get(run)? - pushed) * 1e3);
        self.pushed.iter().filter_map(way).collect()
    }

    fn take(&mut self, line: &str) {
        let Some((time, rest)) = line.trim_start_matches('+').split_once(' ') else {
            return;
        };
        let Ok(time) = time.parse::<f64>() else { return };
        let lower = rest.to_lowercase();
        // The claim names the job alone; jobs come one at a time here, so it is the last one pushed.
        if lower.contains("\"lmove\" \"jobs:pending\"") {
            if let Some(run) = self.waiting.take() {
                self.claimed.entry(run).or_insert(time);
            }
            return;
        }
        let Some(run) = run_id(rest) else { return };
        if lower.contains("\"lpush\" \"jobs:pending\"") {
            self.waiting = Some(run.clone());
            self.pushed.entry(run).or_insert(time);
        } else if lower.contains("\"publish\"") && lower.contains("to_status\\\":\\\"planning") {
            self.planned.entry(run).or_insert(time);
        }
    }
}

/// The value of the first `run_id` in an escaped JSON text.
fn run_id(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("\\\"run_id\\\":\\\"")?;
    rest.get(..36).map(str::to_owned)
}

async fn monitor(redis: &Redis) -> Lines<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port()))
        .await
        .expect("Redis answers");
    stream.write_all(b"MONITOR\r\n").await.expect("Redis listens");
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next_line().await.expect("Redis answers");
    assert_eq!(first.as_deref(), Some("+OK"));
    lines
}

/// How often which command came within `time`; those of scripts belong to the script.
pub(crate) async fn count_commands(redis: &Redis, time: Duration) -> BTreeMap<String, usize> {
    let mut lines = monitor(redis).await;
    let mut counts = BTreeMap::new();
    let counting = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(command) = command(&line) {
                *counts.entry(command).or_default() += 1;
            }
        }
    };
    // It ends by the time running out.
    assert!(
        tokio::time::timeout(time, counting).await.is_err(),
        "Redis goes on"
    );
    counts
}

/// The command of a line in capitals, with its key when it has one; nothing for those of scripts.
fn command(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" [")?;
    let (source, words) = rest.split_once("] ")?;
    if source.ends_with(" lua") {
        return None;
    }
    let mut words = words.split('"').filter(|word| !word.trim().is_empty());
    let name = words.next()?.to_uppercase();
    let argument: String = words.next().unwrap_or_default().chars().take(20).collect();
    Some(format!("{name} {argument}").trim_end().to_owned())
}

/// Watches until `enough` runs were pushed and planned.
pub(crate) async fn watch(redis: &Redis, enough: usize) -> tokio::task::JoinHandle<Seen> {
    let mut lines = monitor(redis).await;
    tokio::spawn(async move {
        let mut seen = Seen::default();
        while seen.ways_ms().len() < enough {
            let line = lines
                .next_line()
                .await
                .expect("Redis goes on")
                .expect("Redis goes on");
            seen.take(&line);
        }
        seen
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_and_the_first_event_make_a_way() {
        let run = "7a5f0000-0000-4000-8000-000000000000";
        let mut seen = Seen::default();
        seen.take(&format!(
            r#"+10.000100 [0 lua] "lpush" "jobs:pending" "{{\"job_id\":\"x\",\"run_id\":\"{run}\"}}""#
        ));
        seen.take(&format!(r#"+10.000900 [0 127.0.0.1:1] "PUBLISH" "agent:logs:{run}" "{{\"run_id\":\"{run}\",\"metadata\":{{\"to_status\":\"queued\"}}}}""#));
        assert!(seen.ways_ms().is_empty());
        seen.take(&format!(r#"+10.001600 [0 127.0.0.1:2] "PUBLISH" "agent:logs:{run}" "{{\"run_id\":\"{run}\",\"metadata\":{{\"from_status\":\"queued\",\"to_status\":\"planning\"}}}}""#));
        assert!((seen.ways_ms()[0] - 1.5).abs() < 1e-3);
    }

    #[test]
    fn the_next_claim_is_that_of_the_job_pushed_last() {
        let run = "7a5f0000-0000-4000-8000-000000000000";
        let mut seen = Seen::default();
        seen.take(&format!(
            r#"+10.000100 [0 lua] "LPUSH" "jobs:pending" "{{\"job_id\":\"x\",\"run_id\":\"{run}\"}}""#
        ));
        seen.take(r#"+10.000400 [0 lua] "LMOVE" "jobs:pending" "jobs:processing" "RIGHT" "LEFT""#);
        assert!((seen.claims_ms()[0] - 0.3).abs() < 1e-3);
    }

    #[test]
    fn commands_of_scripts_are_not_counted() {
        let line = r#"+10.000400 [0 lua] "LMOVE" "jobs:pending" "jobs:processing" "RIGHT" "LEFT""#;
        assert_eq!(command(line), None);
        let line = r#"+10.000400 [0 127.0.0.1:5] "brpop" "jobs:wake" "1""#;
        assert_eq!(command(line).as_deref(), Some("BRPOP jobs:wake"));
        assert_eq!(
            command(r#"+10.1 [0 127.0.0.1:5] "PING""#).as_deref(),
            Some("PING")
        );
    }
}
