//! Requests whose exact form matters, as a server sees them.

use super::*;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::AsyncReadExt as _;
use kube::Config;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Method, path with query, body.
type Seen = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// A server that notes what it is asked and always gives one answer.
async fn server(status: StatusCode, answer: Value) -> (Calls, Seen) {
    bootstrap::telemetry::crypto();
    let seen = Seen::default();
    let handler =
        async move |State(seen): State<Seen>, method: Method, uri: Uri, _: HeaderMap, body: Bytes| {
            let body = serde_json::from_slice(&body).unwrap_or_default();
            seen.lock().unwrap().push((method, uri.to_string(), body));
            let headers = [
                ("warning", "299 - \"would violate PodSecurity\""),
                ("retry-after", "3"),
            ];
            (status, headers, answer.to_string()).into_response()
        };
    let app = axum::Router::new().fallback(handler).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (
        Calls::to(Config::new(url.parse().unwrap()), "agent-tools").unwrap(),
        seen,
    )
}

#[tokio::test]
async fn a_job_is_deleted_in_the_background_and_only_under_its_uid() {
    let (calls, seen) = server(StatusCode::OK, json!({})).await;
    calls.delete_job("agent-shell-a", "uid-1").await.unwrap();
    calls.delete_pod("pod-a", "uid-2").await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let (method, path, body) = &seen[0];
    assert_eq!(method, Method::DELETE);
    assert!(
        path.starts_with("/apis/batch/v1/namespaces/agent-tools/jobs/agent-shell-a"),
        "{path}"
    );
    let exact = json!({"propagationPolicy": "Background", "preconditions": {"uid": "uid-1"}});
    assert_eq!(*body, exact);
    assert_eq!(seen[1].2, json!({"preconditions": {"uid": "uid-2"}}));
}

#[tokio::test]
async fn an_object_that_is_gone_or_another_one_counts_as_deleted() {
    for (code, reason) in [(404, "NotFound"), (409, "Conflict")] {
        let status = json!({"kind": "Status", "code": code, "reason": reason, "message": "x"});
        let (calls, _) = server(StatusCode::from_u16(code).unwrap(), status).await;
        assert_eq!(calls.delete_job("a", "u").await, Ok(()), "{code}");
    }
}

#[tokio::test]
async fn a_log_is_resumed_from_the_whole_second_before() {
    let (calls, seen) = server(StatusCode::OK, json!("text")).await;
    let since = "2026-11-20T17:00:05.9Z".parse().unwrap();
    let mut text = String::new();
    let mut log = std::pin::pin!(calls.log("p", Some(since)).await.unwrap());
    log.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "\"text\"");
    let path = seen.lock().unwrap()[0].1.clone();
    assert!(path.contains("sinceTime=2026-11-20T17%3A00%3A05Z"), "{path}");
    for part in ["follow=true", "timestamps=true", "container=tool"] {
        assert!(path.contains(part), "{path}");
    }
}

#[tokio::test]
async fn a_trial_makes_nothing_and_its_warnings_are_heard() {
    let (calls, seen) = server(StatusCode::CREATED, json!({})).await;
    let answer = calls.try_pod(&Pod::default()).await.unwrap();
    assert_eq!(answer.warnings, ["299 - \"would violate PodSecurity\""]);
    assert!(seen.lock().unwrap()[0].1.contains("dryRun=All"));
    calls.create_secret(&Secret::default()).await.unwrap();
    assert!(!seen.lock().unwrap()[1].1.contains("dryRun"));
}

#[tokio::test]
async fn nothing_is_asked_twice_by_itself() {
    let (calls, seen) = server(StatusCode::SERVICE_UNAVAILABLE, json!({"message": "later"})).await;
    let created = calls.create_job(&Job::default()).await;
    assert!(matches!(created, Err(CallError::Away(_))), "{created:?}");
    assert!(matches!(calls.job("a").await, Err(CallError::Away(_))));
    assert_eq!(seen.lock().unwrap().len(), 2);
}
