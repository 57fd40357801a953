//! A promise broken on purpose ([`domain::breakage`]): a start is pushed before it is committed.

use crate::edge::Trace;
use crate::state::App;
use domain::{Command, RunId};
use std::time::Duration;

/// How long the queue knows of the start before the store does.
const HEAD_START: Duration = Duration::from_millis(200);

/// What must never happen: the queue knows of the start before the store does.
pub(super) async fn push(app: &App, trace: &Trace, run_id: RunId, command: &Command) {
    let (Command::Start { job_id }, Some(queue)) = (command, &app.queue) else {
        return;
    };
    let job = domain::Job {
        job_id: *job_id,
        run_id,
        attempt: 1,
        retry_count: 0,
        priority: 0,
        enqueued_at: app.clock.now(),
        traceparent: trace.traceparent.clone(),
    };
    if let Err(error) = queue.push(&job).await {
        tracing::warn!(error = %crate::error::chain(&error), "early push failed");
    }
    tokio::time::sleep(HEAD_START).await;
}
