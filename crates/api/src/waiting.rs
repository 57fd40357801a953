//! Where a run stands in the queue: what only Redis can add to `waiting_for`.

use crate::state::App;
use domain::waiting::WaitKind;
use queue::Intake;
use runs::reader::IN_LINE;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest wait for Redis; without it the run says that it is in line.
const PATIENCE: Duration = Duration::from_millis(250);

/// Says more precisely why these runs wait. Asks Redis once, and only when one of them is in line.
pub async fn refine(app: &App, runs: &mut [Value]) {
    let in_line = |run: &&mut Value| run["waiting_for"]["detail"] == IN_LINE;
    let mut waiting: Vec<&mut Value> = runs.iter_mut().filter(in_line).collect();
    if waiting.is_empty() {
        return;
    }
    let (kind, detail) = why(app).await;
    for run in &mut waiting {
        run["waiting_for"]["kind"] = json!(kind.as_str());
        run["waiting_for"]["detail"] = json!(detail);
    }
}

async fn why(app: &App) -> (WaitKind, String) {
    let Some(queue) = &app.queue else {
        return (WaitKind::Queue, IN_LINE.to_owned());
    };
    match tokio::time::timeout(PATIENCE, queue.intake(app.clock.now())).await {
        Ok(Ok(intake)) => explain(&intake),
        _ => (
            WaitKind::Queue,
            "Redis is away; the run is stored and will be enqueued".to_owned(),
        ),
    }
}

fn explain(intake: &Intake) -> (WaitKind, String) {
    if intake.paused {
        let text = "an operator has paused the queue: agentctl queue resume";
        return (WaitKind::Queue, text.to_owned());
    }
    if intake.workers == 0 {
        return (WaitKind::Queue, "no worker is running".to_owned());
    }
    let text = format!(
        "{} job(s) wait for a place at {} worker(s)",
        intake.waiting, intake.workers
    );
    (WaitKind::WorkerSlot, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_queue_and_missing_workers_are_told_apart_from_busy_ones() {
        let intake = |paused, workers| Intake {
            paused,
            workers,
            waiting: 3,
        };
        assert_eq!(explain(&intake(true, 2)).0, WaitKind::Queue);
        assert_eq!(explain(&intake(false, 0)).1, "no worker is running");
        assert_eq!(explain(&intake(false, 2)).0, WaitKind::WorkerSlot);
    }
}
