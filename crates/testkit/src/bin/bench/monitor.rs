//! Redis' own clock: what `MONITOR` says happened when, in microseconds.

use std::collections::HashMap;

use testkit::Redis;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Times by run id, in seconds of the server's clock.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pushed: HashMap<String, f64>,
    planned: HashMap<String, f64>,
}

impl Seen {
    /// Milliseconds from the push of each run's job to the first event of its worker.
    pub(crate) fn ways_ms(&self) -> Vec<f64> {
        let way = |(run, pushed): (&String, &f64)| Some((self.planned.get(run)? - pushed) * 1e3);
        self.pushed.iter().filter_map(way).collect()
    }

    fn take(&mut self, line: &str) {
        let Some((time, rest)) = line.trim_start_matches('+').split_once(' ') else {
            return;
        };
        let Ok(time) = time.parse::<f64>() else { return };
        let Some(run) = run_id(rest) else { return };
        let lower = rest.to_lowercase();
        if lower.contains("\"lpush\" \"jobs:pending\"") {
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

/// Watches until `enough` runs were pushed and planned.
pub(crate) async fn watch(redis: &Redis, enough: usize) -> tokio::task::JoinHandle<Seen> {
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port()))
        .await
        .expect("Redis answers");
    stream.write_all(b"MONITOR\r\n").await.expect("Redis listens");
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next_line().await.expect("Redis answers");
    assert_eq!(first.as_deref(), Some("+OK"));
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
}
