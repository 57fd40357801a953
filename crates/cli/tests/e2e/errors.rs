//! The table of errors, by HTTP.

use crate::support::{LONG, SECRET, Setup, System, message, script};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use testkit::jwt;

async fn problem(answer: Response, status: StatusCode, code: &str, detail: &str) -> Value {
    let kind = answer.headers().get("content-type").cloned();
    let request_id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let got = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(got, status, "{body}");
    assert_eq!(kind.unwrap(), "application/problem+json", "{body}");
    let expected = json!({"code": code, "detail": detail, "error": detail, "status": status.as_u16(),
        "type": format!("urn:agent-api:problem:{code}"), "request_id": request_id,
        "title": status.canonical_reason()});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&body[name], value, "{name} of {body}");
    }
    body
}

fn request(system: &System, method: Method, path: &str) -> RequestBuilder {
    system.client.request(method, format!("{}{path}", system.base))
}

async fn execute(system: &System, body: Value) -> Response {
    system.post(&body).await
}

/// `Authorization` headers with the detail and the code of their refusal.
fn refused_headers() -> Vec<(Option<String>, &'static str, &'static str)> {
    let now_past = json!({"exp": 1_000_000_000});
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c2VyLTEifQ.";
    vec![
        (None, "Missing authorization header", "missing_authorization"),
        (
            Some("Bearer".to_owned()),
            "Invalid authorization header format",
            "invalid_authorization",
        ),
        (
            Some("Basic abc".to_owned()),
            "Invalid authorization header format",
            "invalid_authorization",
        ),
        (
            Some("Bearer a b".to_owned()),
            "Invalid authorization header format",
            "invalid_authorization",
        ),
        (
            Some("Bearer sk_agent_unknown".to_owned()),
            "Invalid API key",
            "invalid_api_key",
        ),
        (
            Some("Bearer abc".to_owned()),
            "Invalid token format",
            "invalid_token_format",
        ),
        (
            Some("Bearer a.b.c".to_owned()),
            "Invalid token format",
            "invalid_token_format",
        ),
        (
            Some(format!("Bearer {none}")),
            "Invalid or expired token",
            "invalid_token",
        ),
        (
            Some(format!("Bearer {}", jwt("other", "u", Value::Null))),
            "Invalid or expired token",
            "invalid_token",
        ),
        (
            Some(format!("bearer {}", jwt(SECRET, "u", now_past))),
            "Token expired",
            "token_expired",
        ),
        (
            Some(format!("Bearer {}", jwt(SECRET, "", json!({"sub": null})))),
            "Invalid token: no user ID",
            "no_user_id",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_caller_is_a_401_of_its_own() {
    let system = Setup::default().start().await;
    let cases = refused_headers();
    let routes = [
        (Method::POST, "/agent/execute"),
        (Method::POST, "/agent/status"),
        (Method::GET, "/agent/logs"),
        (
            Method::GET,
            "/agent/logs/7a5f0000-0000-4000-8000-000000000000/stream",
        ),
        (
            Method::GET,
            "/agent/run/7a5f0000-0000-4000-8000-000000000000/stream",
        ),
        (
            Method::GET,
            "/agent/run/7a5f0000-0000-4000-8000-000000000000/events",
        ),
    ];
    for (method, path) in routes {
        for (header, detail, code) in &cases {
            let mut sent = request(&system, method.clone(), path).body("{");
            if let Some(header) = header {
                sent = sent.header("Authorization", header);
            }
            let answer = sent.send().await.unwrap();
            assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{path} {code}");
            problem(answer, StatusCode::UNAUTHORIZED, code, detail).await;
        }
        // A token in the query is none.
        let url = format!("{path}?token={t}&access_token={t}&api_key={t}", t = system.token);
        let answer = request(&system, method, &url).send().await.unwrap();
        problem(
            answer,
            StatusCode::UNAUTHORIZED,
            "missing_authorization",
            "Missing authorization header",
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_somebody_else_is_as_unknown_as_one_that_is_not_there() {
    let mut system = Setup::default().start().await;
    let run = system.create("x").await;
    system.token = jwt(SECRET, "somebody-else", Value::Null);
    let not_there = "7a5f0000-0000-4000-8000-000000000000";
    for id in [run.as_str(), not_there, "no-uuid"] {
        for action in ["start", "stop", "cancel", "pause", "resume", "retry", "status"] {
            let answer = execute(&system, json!({"action": action, "run_id": id})).await;
            problem(answer, StatusCode::NOT_FOUND, "run_not_found", "Run not found").await;
        }
        let mut requests = vec![request(&system, Method::POST, "/agent/status").json(&json!({"run_id": id}))];
        for path in [
            format!("/agent/logs?run_id={id}"),
            format!("/agent/logs?run_id={id}&mode=stream"),
            format!("/agent/logs/{id}/stream"),
            format!("/agent/run/{id}/stream"),
            format!("/agent/run/{id}/events"),
        ] {
            requests.push(request(&system, Method::GET, &path));
        }
        for sent in requests {
            let answer = sent.bearer_auth(&system.token).send().await.unwrap();
            problem(answer, StatusCode::NOT_FOUND, "run_not_found", "Run not found").await;
        }
    }
    assert_eq!(
        execute(&system, json!({"action": "list"}))
            .await
            .json::<Value>()
            .await
            .unwrap()["runs"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_that_make_no_sense_are_told_what_is_wrong() {
    let system = Setup::workers(1).start().await;
    let bad = StatusCode::BAD_REQUEST;
    for (action, shown) in [("fly", "fly"), ("", ""), ("START", "START")] {
        let answer = execute(&system, json!({"action": action})).await;
        problem(answer, bad, "unknown_action", &format!("Unknown action: {shown}")).await;
    }
    for action in ["start", "stop", "pause", "resume", "retry", "status", "cancel"] {
        let answer = execute(&system, json!({"action": action})).await;
        problem(
            answer,
            bad,
            "run_id_required",
            &format!("run_id is required for {action} action"),
        )
        .await;
    }
    for prompt in [Value::Null, json!(""), json!("  \n ")] {
        let answer = execute(&system, json!({"action": "create", "prompt": prompt})).await;
        problem(answer, bad, "prompt_required", "Prompt is required").await;
    }
    let created = system.create("x").await;
    for (action, word) in [("pause", "pause"), ("resume", "resume"), ("retry", "retry")] {
        let answer = execute(&system, json!({"action": action, "run_id": created})).await;
        let detail = format!("Cannot {word} run in status: created");
        problem(answer, bad, "invalid_transition", &detail).await;
    }
    let done = system.begin(&script(&[message("one")])).await;
    system.wait_status(&done, "completed", LONG).await;
    for (action, word) in [
        ("start", "start"),
        ("stop", "cancel"),
        ("cancel", "cancel"),
        ("pause", "pause"),
        ("resume", "resume"),
        ("retry", "retry"),
    ] {
        let answer = execute(&system, json!({"action": action, "run_id": done})).await;
        let detail = format!("Cannot {word} run in status: completed");
        problem(answer, bad, "invalid_transition", &detail).await;
    }
    let url = format!("/agent/logs?run_id={done}&mode=x");
    let answer = request(&system, Method::GET, &url)
        .bearer_auth(&system.token)
        .send()
        .await
        .unwrap();
    problem(
        answer,
        bad,
        "invalid_mode",
        "Invalid mode: x. Use 'polling' or 'stream'",
    )
    .await;
}

/// Bodies with the place and the type of their first fault.
fn wrong_bodies() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("{}", json!(["body", "action"]), "missing"),
        ("{", json!(["body"]), "json_invalid"),
        (r#"{"action": 1}"#, json!(["body", "action"]), "string_type"),
        (
            r#"{"action":"create","prompt":1}"#,
            json!(["body", "prompt"]),
            "string_type",
        ),
        (
            r#"{"action":"create","prompt":"x","connector_ids":"a"}"#,
            json!(["body", "connector_ids"]),
            "list_type",
        ),
        (
            r#"{"action":"create","prompt":"x","auto_start":"a"}"#,
            json!(["body", "auto_start"]),
            "bool_type",
        ),
        (
            r#"{"action":"create","prompt":"x","priority":"a"}"#,
            json!(["body", "priority"]),
            "int_type",
        ),
        (
            r#"{"action":"create","prompt":"x","priority":10}"#,
            json!(["body", "priority"]),
            "value_error",
        ),
        (
            "{\"action\":\"create\",\"prompt\":\"a\\u0000b\"}",
            json!(["body", "prompt"]),
            "value_error",
        ),
        (
            r#"{"action":"list","limit":101}"#,
            json!(["body", "limit"]),
            "value_error",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_the_wrong_shape_get_422_and_too_large_ones_413() {
    let system = Setup::default().start().await;
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    let failed = "Request validation failed";
    for (body, place, kind) in wrong_bodies() {
        let sent = request(&system, Method::POST, "/agent/execute").bearer_auth(&system.token);
        // JSON whatever the content type says.
        let answer = sent
            .header("Content-Type", "text/plain")
            .body(body)
            .send()
            .await
            .unwrap();
        let body = problem(answer, unprocessable, "validation_error", failed).await;
        let error = &body["errors"][0];
        assert_eq!(
            (&error["loc"], error["type"].as_str()),
            (&place, Some(kind)),
            "{body}"
        );
    }
    let answer = request(&system, Method::GET, "/agent/logs")
        .bearer_auth(&system.token)
        .send()
        .await
        .unwrap();
    let body = problem(answer, unprocessable, "validation_error", failed).await;
    assert_eq!(body["errors"][0]["loc"], json!(["query", "run_id"]));
    let large = json!({"action": "create", "prompt": "x".repeat(10_485_760)});
    let answer = execute(&system, large).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "payload_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_told_before_the_token_is_looked_at() {
    let system = Setup::default().start().await;
    let answer = request(&system, Method::GET, "/nothing").send().await.unwrap();
    problem(answer, StatusCode::NOT_FOUND, "not_found", "Not Found").await;
    for (method, path, allow) in [
        (Method::GET, "/agent/execute", "POST"),
        (Method::PUT, "/agent/status", "POST"),
        (Method::POST, "/agent/logs", "GET"),
        (
            Method::DELETE,
            "/agent/run/7a5f0000-0000-4000-8000-000000000000/events",
            "GET",
        ),
        (Method::POST, "/health", "GET"),
    ] {
        let answer = request(&system, method, path).send().await.unwrap();
        let header = answer.headers().get("allow").cloned().expect("405 has Allow");
        assert!(
            header
                .to_str()
                .unwrap()
                .split(',')
                .any(|word| word.trim() == allow),
            "{path}: {header:?}"
        );
        problem(
            answer,
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Method Not Allowed",
        )
        .await;
    }
}
