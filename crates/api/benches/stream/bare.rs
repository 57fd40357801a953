//! The ceiling: frames that are there already, from a broadcast to streams of plain axum. No store, no bus, no cursor.

use crate::support::TEXT;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

type Runs = Arc<Mutex<HashMap<String, broadcast::Sender<Bytes>>>>;

fn sender(runs: &Runs, run: &str) -> broadcast::Sender<Bytes> {
    let mut runs = runs.lock().unwrap();
    let new = || broadcast::Sender::new(65_536);
    runs.entry(run.to_owned()).or_insert_with(new).clone()
}

async fn stream(State(runs): State<Runs>, Path(run): Path<String>) -> Response {
    let receiver = sender(&runs, &run).subscribe();
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await.ok()?;
        Some((Ok::<_, Infallible>(frame), receiver))
    });
    let first = futures::stream::once(async { Ok(Bytes::from_static(b"retry: 2000\n\n")) });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    (headers, Body::from_stream(first.chain(frames))).into_response()
}

/// `?from=1&count=10&last=1`
async fn publish(
    State(runs): State<Runs>,
    Path(run): Path<String>,
    Query(query): Query<HashMap<String, i64>>,
) -> &'static str {
    let sender = sender(&runs, &run);
    let (from, count) = (query["from"], query["count"]);
    for seq in from..from + count {
        let kind = if query["last"] == 1 && seq == from + count - 1 {
            "complete"
        } else {
            "log"
        };
        let data = json!({"type": kind, "run_id": run, "seq": seq, "id": run, "log_type": "info", "message": TEXT,
            "metadata": {}, "timestamp": "2026-11-20T17:00:00.000000Z"});
        // Nobody listens yet, or any more.
        sender
            .send(Bytes::from(format!("id: {seq}\ndata: {data}\n\n")))
            .ok();
    }
    "ok"
}

pub(crate) async fn serve(port: u16) {
    let runs = Runs::default();
    let app = Router::new()
        .route("/agent/logs/{run}/stream", get(stream))
        .route("/publish/{run}", post(publish))
        .with_state(runs);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
