//! The admin listener: `/healthz` (is the job loop moving), `/readyz` (do the dependencies answer), `/metrics`.
//!
//! `/healthz` answers "would a restart help", so an outage of Redis or Postgres is no failure: the loop goes round and waits.
//! It fails with `stalled` when the loop has not gone round for [`STALLED_AFTER`], and with `not_consuming` when the
//! watchdog found that no claim completes although Redis would answer one; the process is then ending.

use crate::intake::Progress;
use crate::kubernetes::KubernetesSandbox;
use crate::model::WithRetries;
use crate::workspace::Workspaces;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use queue::{Glance, ListName, Queue};
use runs::{Db, Outbox};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// `/healthz` fails when the job loop has not gone round for this long.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Longest time of one check.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// Results are at most this old.
const CHECK_AGE: Duration = Duration::from_secs(4);
/// The same for a result with an error: a start or a recovery is seen at once.
const ERROR_AGE: Duration = Duration::from_millis(100);
const MODEL_CHECK_AGE: Duration = Duration::from_mins(1);

/// What the checks need.
#[derive(Debug)]
pub struct Checks {
    pub db: Db,
    pub queue: Queue,
    pub queue_prefix: String,
    pub workspaces: Workspaces,
    pub model: WithRetries,
    /// Where tools run in a cluster; told, and no reason to be unready: a call waits for it.
    pub kubernetes: Option<KubernetesSandbox>,
    pub cached: Mutex<Cached>,
}

/// The last results.
#[derive(Debug, Default)]
pub struct Cached {
    stores: Option<(Instant, Stores)>,
    model: Option<(Instant, &'static str)>,
}

/// Postgres, Redis, S3 in words, and the queue when Redis tells.
type Stores = ([&'static str; 3], Option<Glance>);

impl Checks {
    async fn within<E>(check: impl Future<Output = Result<(), E>>) -> &'static str {
        match timeout(CHECK_LIMIT, check).await {
            Ok(Ok(())) => "ok",
            _ => "error",
        }
    }

    async fn s3(&self) -> &'static str {
        if self.workspaces.is_configured() {
            Self::within(self.workspaces.check()).await
        } else {
            "not_configured"
        }
    }

    async fn stores(&self) -> Stores {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner).stores;
        let fresh = |(at, (words, _)): &(Instant, Stores)| {
            let age = if words.contains(&"error") {
                ERROR_AGE
            } else {
                CHECK_AGE
            };
            at.elapsed() < age
        };
        if let Some((_, results)) = cached.filter(fresh) {
            return results;
        }
        let (postgres, redis, s3, glance) = tokio::join!(
            Self::within(self.db.ping()),
            Self::within(self.queue.ping()),
            self.s3(),
            timeout(CHECK_LIMIT, self.queue.glance()),
        );
        let results = ([postgres, redis, s3], glance.ok().and_then(Result::ok));
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).stores = Some((Instant::now(), results));
        results
    }

    async fn model(&self) -> &'static str {
        let cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner).model;
        if let Some((_, result)) = cached.filter(|(at, _)| at.elapsed() < MODEL_CHECK_AGE) {
            return result;
        }
        let result = Self::within(self.model.check()).await;
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).model = Some((Instant::now(), result));
        result
    }

    /// Whether the worker can work, and the body that says so.
    pub async fn readiness(&self) -> (bool, Value) {
        let (([postgres, redis, s3], glance), model) = tokio::join!(self.stores(), self.model());
        let ready = postgres == "ok" && redis == "ok";
        let status = if ready { "ready" } else { "not_ready" };
        let mut checks = json!({"postgres": postgres, "redis": redis, "s3": s3, "model": model});
        if let Some(kubernetes) = &self.kubernetes {
            checks["kubernetes"] = json!(if kubernetes.health().is_ok() {
                "ok"
            } else {
                "error"
            });
        }
        let queue = glance.as_ref().map(Glance::to_json);
        (ready, json!({"status": status, "checks": checks, "queue": queue}))
    }
}

#[derive(Clone)]
struct Admin {
    checks: Arc<Checks>,
    progress: Progress,
    soft: CancellationToken,
    metrics: PrometheusHandle,
}

/// The admin routes.
pub fn router(
    checks: Arc<Checks>,
    progress: Progress,
    soft: CancellationToken,
    metrics: PrometheusHandle,
) -> Router {
    let admin = Admin {
        checks,
        progress,
        soft,
        metrics,
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(admin)
}

async fn healthz(State(admin): State<Admin>) -> Response {
    if admin.progress.is_given_up() {
        let seconds = admin.progress.unanswered_for().as_secs();
        let reason = format!("no claim completed for {seconds} s although redis answers");
        let body = json!({"status": "not_consuming", "reason": reason});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let stalled = admin.progress.stood_still_for();
    if stalled < STALLED_AFTER || admin.soft.is_cancelled() {
        return Json(json!({"status": "ok"})).into_response();
    }
    let body = json!({"status": "stalled", "stalled_seconds": stalled.as_secs()});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let (ready, mut body) = admin.checks.readiness().await;
    if admin.soft.is_cancelled() {
        body["status"] = json!("not_ready");
        body["reason"] = json!("shutting_down");
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

async fn render(State(admin): State<Admin>) -> String {
    let checks = &admin.checks;
    let outbox = Outbox::new(checks.db.clone());
    let (glance, backlog) = tokio::join!(
        timeout(CHECK_LIMIT, checks.queue.glance()),
        timeout(CHECK_LIMIT, outbox.backlog()),
    );
    if let Ok(Ok(glance)) = glance {
        for list in ListName::ALL {
            let label = format!("{}:{}", checks.queue_prefix, list.suffix());
            metrics::gauge!("agent_queue_depth", "queue" => label).set(glance.depths.of(list) as f64);
        }
        let age_ms = glance.oldest_pending_age_ms.unwrap_or(0);
        metrics::gauge!("agent_queue_oldest_pending_age_seconds").set(age_ms as f64 / 1000.0);
    }
    if let Ok(Ok(backlog)) = backlog {
        metrics::gauge!("agent_outbox_pending").set(backlog.rows as f64);
    }
    admin.metrics.render()
}
