//! `agentctl queue drain`: claiming stops, what runs may end.

use super::{POLL, failed};
use crate::console::Console;
use crate::failure::{Code, Failure};
use queue::{ListName, Queue};
use std::time::{Duration, Instant};

/// Jobs named when the time is over.
const MAX_SHOWN: usize = 50;

/// Pauses and waits until `jobs:processing` is empty. Leaves the queue paused, however it ends.
pub(super) async fn drain(console: Console, queue: &Queue, patience: Duration) -> Result<Code, Failure> {
    queue.set_paused(true).await.map_err(|error| failed(&error))?;
    let until = Instant::now() + patience;
    loop {
        let held = queue.depths().await.map_err(|error| failed(&error))?.processing;
        if held == 0 {
            console.out("drained: no job is held; the queue stays paused until `agentctl queue resume`")?;
            return Ok(Code::Ok);
        }
        if Instant::now() >= until {
            break;
        }
        tokio::time::sleep(POLL * 5).await;
    }
    let held = queue
        .peek(ListName::Processing, 0, MAX_SHOWN)
        .await
        .map_err(|error| failed(&error))?;
    for text in &held {
        let job: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| job[name].as_str().unwrap_or("-").to_owned();
        console.out(&format!("held  job {}  run {}", field("job_id"), field("run_id")))?;
    }
    Err(Failure::new(format!("{} jobs are still held after {} s", held.len(), patience.as_secs()))
        .fix("wait longer with --timeout, or stop their workers: SIGTERM hands their jobs back; `agentctl queue resume` lets claiming go on"))
}
