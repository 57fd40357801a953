//! `GET /debug/worker-status`: the queue as an operator wants to see it; for admins.

use crate::auth::Admin;
use crate::error::chain;
use crate::openapi::operator::WorkerStatus;
use crate::openapi::refusals::ForAdmin;
use crate::state::App;
use axum::Json;
use axum::extract::State;
use queue::{ListName, Queue, QueueError};
use serde_json::{Value, json};
use std::time::Duration;

/// Debug lines shown.
const DEBUG_LINES: u32 = 21;
/// Dead letters shown.
const FAILED_JOBS: usize = 6;
/// Characters shown of an error.
const ERROR_CHARS: usize = 500;
/// Longest wait for Redis.
const PATIENCE: Duration = Duration::from_secs(2);

/// The queue as an operator wants to see it.
#[utoipa::path(
    get,
    path = "/debug/worker-status",
    operation_id = "worker_status",
    tag = "admin",
    responses((status = 200, description = "Queue and workers; also while Redis is away", body = WorkerStatus), ForAdmin),
    security(("bearer" = []))
)]
pub async fn worker_status(State(app): State<App>, _: Admin) -> Json<Value> {
    let answer = match app.queue.as_ref().filter(|queue| queue.is_connected()) {
        None => Err("redis is not connected".to_owned()),
        Some(queue) => match tokio::time::timeout(PATIENCE, look(queue)).await {
            Ok(looked) => looked.map_err(|error| chain(&error)),
            Err(_) => Err("redis did not answer in time".to_owned()),
        },
    };
    Json(answer.unwrap_or_else(|error| {
        json!({
            "worker_heartbeat": null,
            "debug_logs": [],
            "queue_stats": {"pending": 0, "processing": 0, "high_priority": 0, "retry": 0, "failed": 0},
            "failed_jobs": [],
            "redis_connected": false,
            "error": cut(&error),
        })
    }))
}

async fn look(queue: &Queue) -> Result<Value, QueueError> {
    let (heartbeat, _) = queue.worker_times().await?;
    let depths = queue.depths().await?;
    let debug = queue.debug_lines(DEBUG_LINES).await?;
    let failed = queue.peek(ListName::Failed, 0, FAILED_JOBS).await?;
    Ok(json!({
        "worker_heartbeat": heartbeat,
        "debug_logs": debug,
        "queue_stats": {
            "pending": depths.pending,
            "processing": depths.processing,
            "high_priority": depths.high_priority,
            "retry": depths.retry,
            "failed": depths.failed,
        },
        "failed_jobs": failed.iter().map(|text| failed_job(text)).collect::<Vec<_>>(),
        "redis_connected": true,
    }))
}

fn failed_job(text: &str) -> Value {
    let job: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    json!({
        "run_id": job["run_id"],
        "error": job["error"].as_str().map(cut),
        "failed_at": job["failed_at"],
        "reason": job["reason"],
    })
}

fn cut(text: &str) -> String {
    text.chars().take(ERROR_CHARS).collect()
}
