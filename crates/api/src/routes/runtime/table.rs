//! The one table of the internal surface: the router is built of it and the contract check compares documents with it,
//! so a route cannot be served without being described, nor described without being served.
//!
//! Invariant: `statuses` are all a route answers besides 405 (other methods) and 500 (a fault of ours).

use super::{Runtime, health, recordings, runs, workers};
use axum::Router;
use axum::routing::{MethodRouter, get, post};

/// A parameter of the query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryParameter {
    pub name: &'static str,
    pub required: bool,
}

/// One served operation.
#[derive(Clone, Copy)]
pub struct Operation {
    /// In capitals.
    pub method: &'static str,
    /// With `{name}` for parameters of the path.
    pub path: &'static str,
    /// In rising order.
    pub statuses: &'static [u16],
    pub query: &'static [QueryParameter],
    handler: fn() -> MethodRouter<Runtime>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Operation {
    /// Names of the parameters of the path.
    pub fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        let parts = self.path.split('{').skip(1);
        parts.filter_map(|part| part.split('}').next())
    }
}

const fn required(name: &'static str) -> QueryParameter {
    QueryParameter { name, required: true }
}

const fn optional(name: &'static str) -> QueryParameter {
    QueryParameter {
        name,
        required: false,
    }
}

const fn operation(
    method: &'static str,
    path: &'static str,
    statuses: &'static [u16],
    query: &'static [QueryParameter],
    handler: fn() -> MethodRouter<Runtime>,
) -> Operation {
    Operation {
        method,
        path,
        statuses,
        query,
        handler,
    }
}

/// What a GET of `/internal/v1` answers.
const READ: &[u16] = &[200, 400, 401, 403, 404, 503];
const CREATE: &[u16] = &[201, 400, 401, 403, 413, 415, 422, 503];
const WINDOW: &[QueryParameter] = &[optional("events_after"), optional("events_limit")];
const OWNER: &[QueryParameter] = &[optional("owner_user_id"), optional("owner_guest_scope")];
const NONE: &[QueryParameter] = &[];
/// What a POST to a worker answers.
const CHANGE: &[u16] = &[200, 400, 401, 403, 404, 413, 415, 422, 503];

/// Everything the internal listener serves.
pub const TABLE: &[Operation] = &[
    operation("GET", "/healthz", &[200], NONE, || get(health::healthz)),
    operation("GET", "/readyz", &[200, 503], NONE, || get(health::readyz)),
    operation("GET", "/metrics", &[200], NONE, || {
        get(crate::routes::health::metrics)
    }),
    operation("GET", "/internal/v1/health", &[200], NONE, || get(health::health)),
    operation("POST", "/internal/v1/runs", CREATE, NONE, || post(runs::create)),
    operation("GET", "/internal/v1/runs/{run_id}", READ, WINDOW, || {
        get(runs::get)
    }),
    operation(
        "POST",
        "/internal/v1/runs/{run_id}/events",
        &[200, 400, 401, 403, 404, 409, 413, 415, 422, 503],
        WINDOW,
        || post(runs::append),
    ),
    operation(
        "GET",
        "/internal/v1/projectors/checkpoints/{run_id}",
        READ,
        NONE,
        || get(runs::checkpoint),
    ),
    operation(
        "GET",
        "/internal/v1/projectors/run-summary/{run_id}",
        READ,
        NONE,
        || get(runs::summary),
    ),
    operation(
        "GET",
        "/internal/v1/projectors/drift",
        READ,
        &[required("topic")],
        || get(runs::drift),
    ),
    operation("GET", "/internal/v1/runs/{run_id}/receipt", READ, NONE, || {
        get(recordings::receipt)
    }),
    operation("GET", "/internal/v1/runs/{run_id}/replay", READ, NONE, || {
        get(recordings::replay)
    }),
    operation("POST", "/internal/v1/workers", CREATE, NONE, || {
        post(workers::register)
    }),
    operation("GET", "/internal/v1/workers/{worker_id}", READ, OWNER, || {
        get(workers::get)
    }),
    operation(
        "GET",
        "/internal/v1/workers/{worker_id}/checkpoint",
        READ,
        OWNER,
        || get(workers::checkpoint),
    ),
    operation(
        "POST",
        "/internal/v1/workers/{worker_id}/heartbeat",
        CHANGE,
        NONE,
        || post(workers::heartbeat),
    ),
    operation(
        "POST",
        "/internal/v1/workers/{worker_id}/status",
        CHANGE,
        NONE,
        || post(workers::status),
    ),
];

/// Whether the table says that this route may answer so. 405 and 500 are every route's.
pub fn documents(method: &str, path: &str, status: u16) -> bool {
    let own = |operation: &&Operation| operation.path == path && operation.method == method;
    let known = TABLE.iter().find(own);
    matches!(status, 405 | 500) || known.is_none_or(|operation| operation.statuses.contains(&status))
}

/// A router of the table.
pub(super) fn routes() -> Router<Runtime> {
    TABLE.iter().fold(Router::new(), |router, operation| {
        router.route(operation.path, (operation.handler)())
    })
}
