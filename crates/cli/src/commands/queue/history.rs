//! The attempts of a run, from its log.

use super::store_failed;
use crate::failure::Failure;
use domain::RunId;
use runs::{Reader, RunParts};
use serde_json::{Value, json};

/// Newest log rows looked through.
const MAX_ROWS: i64 = 5000;

/// `status`, `error`, `error_code`, `retry_count`, `max_retries` of the run and its `attempts`: per attempt that ended badly
/// `attempt`, `at`, `what`. Null when there is no such run.
pub(super) async fn of_run(reader: &Reader, run_id: RunId) -> Result<Value, Failure> {
    let failed = |error: runs::StoreError| store_failed(&error);
    let Some(run) = reader.run(run_id).await.map_err(failed)? else {
        return Ok(Value::Null);
    };
    let mut rows = reader
        .parts(run_id, RunParts::Logs, MAX_ROWS)
        .await
        .map_err(failed)?;
    rows.reverse();
    Ok(json!({
        "id": run["id"], "status": run["status"], "error": run["error_message"], "error_code": run["error_code"],
        "retry_count": run["retry_count"], "max_retries": run["max_retries"], "attempts": attempts(&rows, &run),
    }))
}

/// The endings of attempts, and the errors between them, oldest first; of a failed run its own error is the last.
fn attempts(rows: &[Value], run: &Value) -> Vec<Value> {
    let mut attempt = 1;
    let mut told = Vec::new();
    for row in rows {
        let ends = matches!(row["metadata"]["event"].as_str(), Some("retry" | "executor_lost"));
        if ends || row["log_type"] == "error" {
            told.push(json!({"attempt": attempt, "at": row["created_at"], "what": row["message"]}));
        }
        attempt += i32::from(ends);
    }
    if run["status"] == "failed" {
        told.push(json!({"attempt": attempt, "at": run["completed_at"], "what": run["error_message"]}));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_belongs_to_its_attempt() {
        let row = |event: &str, log_type: &str, message: &str| json!({"metadata": {"event": event}, "log_type": log_type, "message": message});
        let rows = [
            row("x", "info", "begun"),
            row("retry", "warning", "one"),
            row("executor_lost", "warning", "two"),
            row("x", "error", "three"),
        ];
        let run = json!({"status": "failed", "error_message": "four"});
        let shown: Vec<(i64, String)> = attempts(&rows, &run)
            .iter()
            .map(|told| {
                (
                    told["attempt"].as_i64().unwrap(),
                    told["what"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (1, "one".to_owned()),
                (2, "two".to_owned()),
                (3, "three".to_owned()),
                (3, "four".to_owned())
            ]
        );
    }
}
