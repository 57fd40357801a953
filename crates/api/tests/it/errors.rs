//! Refusals: shape, order of checks, texts; and what holds for every answer.

use crate::harness::{Api, client, read};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

pub(crate) async fn problem(response: Response) -> (u16, String, String) {
    let kind = response.headers()["content-type"].clone();
    assert_eq!(kind, "application/problem+json");
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let unauthorized = response.status() == 401;
    assert_eq!(response.headers().contains_key("www-authenticate"), unauthorized);
    let (status, body) = read(response).await;
    let code = body["code"].as_str().unwrap().to_owned();
    assert_eq!(body["type"], format!("urn:agent-api:problem:{code}"));
    assert_eq!(body["status"], status);
    assert_eq!(body["error"], body["detail"]);
    assert_eq!(body["request_id"], request_id);
    (status, code, body["detail"].as_str().unwrap().to_owned())
}

pub(crate) fn expected(status: u16, code: &str, detail: &str) -> (u16, String, String) {
    (status, code.to_owned(), detail.to_owned())
}

#[tokio::test]
async fn path_and_method_come_before_the_token_and_the_token_before_the_body() {
    let api = Api::start().await;
    let bare = client();
    let answer = bare.get(format!("{}/nowhere", api.base)).send().await.unwrap();
    assert_eq!(problem(answer).await, expected(404, "not_found", "Not Found"));
    let answer = bare
        .get(format!("{}/agent/execute", api.base))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["allow"], "POST");
    assert_eq!(
        problem(answer).await,
        expected(405, "method_not_allowed", "Method Not Allowed")
    );
    let answer = bare
        .request(Method::DELETE, format!("{}/agent/logs", api.base))
        .send()
        .await
        .unwrap();
    assert!(answer.headers()["allow"].to_str().unwrap().contains("GET"));
    assert_eq!(problem(answer).await.0, 405);
    let answer = bare
        .post(format!("{}/agent/run/nonsense/ticketx", api.base))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(answer).await.0, 404);
    for path in ["/internal/v1/runs", "/internal/v1/health"] {
        let answer = bare.get(format!("{}{path}", api.base)).send().await.unwrap();
        assert_eq!(problem(answer).await.0, 404, "{path}");
    }
}

fn bad_bodies() -> Vec<(&'static str, Value)> {
    vec![
        ("{bad", json!([["body"], "json_invalid"])),
        ("", json!([["body"], "json_invalid"])),
        ("[1]", json!([["body"], "value_error"])),
        ("{}", json!([["body", "action"], "missing"])),
        (r#"{"action":null}"#, json!([["body", "action"], "missing"])),
        (r#"{"action":7}"#, json!([["body", "action"], "string_type"])),
        (
            r#"{"action":"create","prompt":7}"#,
            json!([["body", "prompt"], "string_type"]),
        ),
        (
            r#"{"action":"create","prompt":"a\u0000b"}"#,
            json!([["body", "prompt"], "value_error"]),
        ),
        (
            r#"{"action":"create","auto_start":"yes"}"#,
            json!([["body", "auto_start"], "bool_type"]),
        ),
        (
            r#"{"action":"create","priority":"high"}"#,
            json!([["body", "priority"], "int_type"]),
        ),
        (
            r#"{"action":"create","priority":10}"#,
            json!([["body", "priority"], "value_error"]),
        ),
        (
            r#"{"action":"create","connector_ids":"x"}"#,
            json!([["body", "connector_ids"], "list_type"]),
        ),
        (
            r#"{"action":"list","limit":101}"#,
            json!([["body", "limit"], "value_error"]),
        ),
        (
            r#"{"action":"list","status":"odd"}"#,
            json!([["body", "status"], "value_error"]),
        ),
        (
            r#"{"action":"list","cursor":"odd"}"#,
            json!([["body", "cursor"], "value_error"]),
        ),
    ]
}

#[tokio::test]
async fn bodies_are_checked_field_by_field() {
    let api = Api::start().await;
    for (body, first) in bad_bodies() {
        let request = api
            .client
            .post(format!("{}/agent/execute", api.base))
            .bearer_auth(Api::token("u"));
        let (status, answer) = read(request.body(body).send().await.unwrap()).await;
        assert_eq!(
            (status, &answer["code"]),
            (422, &json!("validation_error")),
            "{body}"
        );
        assert_eq!(answer["detail"], "Request validation failed");
        let fault = &answer["errors"][0];
        assert_eq!(json!([fault["loc"], fault["type"]]), first, "{body}");
    }
    let missing = json!([{"loc": ["body", "action"], "msg": "Field required", "type": "missing"}]);
    let (_, answer) = api.execute("u", json!({})).await;
    assert_eq!(answer["errors"], missing);
}

#[tokio::test]
async fn action_rules_have_their_own_codes() {
    let api = Api::start().await;
    let cases = [
        (json!({"action": ""}), 400, "unknown_action", "Unknown action: "),
        (
            json!({"action": "fly"}),
            400,
            "unknown_action",
            "Unknown action: fly",
        ),
        (
            json!({"action": "start"}),
            400,
            "run_id_required",
            "run_id is required for start action",
        ),
        (
            json!({"action": "cancel", "run_id": null}),
            400,
            "run_id_required",
            "run_id is required for cancel action",
        ),
        (
            json!({"action": "create"}),
            400,
            "prompt_required",
            "Prompt is required",
        ),
        (
            json!({"action": "create", "prompt": " \n\t"}),
            400,
            "prompt_required",
            "Prompt is required",
        ),
        (
            json!({"action": "start", "run_id": "nonsense"}),
            404,
            "run_not_found",
            "Run not found",
        ),
        (
            json!({"action": "status", "run_id": Uuid::nil()}),
            404,
            "run_not_found",
            "Run not found",
        ),
        (
            json!({"action": "retry", "run_id": Uuid::nil()}),
            404,
            "run_not_found",
            "Run not found",
        ),
    ];
    for (body, status, code, detail) in cases {
        let sent = api.post("u", "/agent/execute", &body).send().await.unwrap();
        assert_eq!(problem(sent).await, expected(status, code, detail), "{body}");
    }
}

#[tokio::test]
async fn a_run_of_somebody_else_is_an_unknown_run_on_every_route() {
    let api = Api::start().await;
    let run = api.created_and_started("owner").await;
    let not_found = expected(404, "run_not_found", "Run not found");
    for action in ["start", "stop", "cancel", "pause", "resume", "retry", "status"] {
        let sent = api.post(
            "thief",
            "/agent/execute",
            &json!({"action": action, "run_id": run}),
        );
        assert_eq!(problem(sent.send().await.unwrap()).await, not_found, "{action}");
    }
    let sent = api
        .post("thief", "/agent/status", &json!({"run_id": run}))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(sent).await, not_found);
    for path in [
        format!("/agent/logs?run_id={run}"),
        format!("/agent/logs?run_id={run}&mode=stream"),
        format!("/agent/logs?run_id={run}&mode=odd"),
        format!("/agent/logs/{run}/stream"),
        format!("/agent/logs/{run}/stream?after=odd"),
        format!("/agent/run/{run}/stream"),
        format!("/agent/run/{run}/events"),
        "/agent/logs?run_id=nonsense".to_owned(),
        "/agent/run/nonsense/stream".to_owned(),
    ] {
        let sent = api.get("thief", &path).send().await.unwrap();
        assert_eq!(problem(sent).await, not_found, "{path}");
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_and_any_content_type_is_read() {
    let api = Api::start_with(&[("AGENT_MAX_BODY_BYTES", "1000")]).await;
    let long = json!({"action": "create", "prompt": "x".repeat(2000)});
    let answer = api.post("u", "/agent/execute", &long).send().await.unwrap();
    assert_eq!(problem(answer).await.1, "payload_too_large");
    let body = json!({"action": "create", "prompt": "x", "unknown": {"a": 1}});
    let answer = api
        .post("u", "/agent/execute", &body)
        .header("content-type", "text/plain")
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_sends_everything_first_still_reads_its_refusal() {
    let api = Api::start_with(&[("AGENT_MAX_BODY_BYTES", "1000")]).await;
    let address = api.base.trim_start_matches("http://").to_owned();
    let token = Api::token("u");
    for (path, token, status) in [
        ("/agent/execute", token.as_str(), "413"),
        ("/agent/execute", "nonsense", "401"),
        ("/nowhere", "", "404"),
    ] {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        let body = vec![b'x'; 30_000_000];
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&body).await.unwrap();
        let mut line = [0; 12];
        connection.read_exact(&mut line).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"));
    }
}

#[tokio::test]
async fn polling_pages_by_time_and_seq_and_refuses_other_modes() {
    let api = Api::start().await;
    let run = api.created_and_started("u").await;
    let page = async |rest: &str| {
        let path = format!("/agent/logs?run_id={run}{rest}");
        read(api.get("u", &path).send().await.unwrap()).await.1
    };
    let first = page("&limit=2").await;
    assert_eq!(first["has_more"], true);
    assert_eq!(first["next_cursor"], first["logs"][1]["created_at"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = page(&format!("&since={cursor}")).await;
    assert_eq!(
        (&rest["logs"][0]["seq"], &rest["has_more"], &rest["next_cursor"]),
        (&json!(3), &json!(false), &Value::Null)
    );
    assert_eq!(page("&after=2").await, rest);
    let keys: Vec<&String> = rest["logs"][0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "id",
            "run_id",
            "seq",
            "log_type",
            "message",
            "metadata",
            "created_at"
        ]
    );
    assert_eq!(
        page("&mode=odd").await["detail"],
        "Invalid mode: odd. Use 'polling' or 'stream'"
    );
    assert_eq!(page("&mode=odd").await["code"], "invalid_mode");
    for bad in ["&limit=0", "&limit=1001", "&limit=x", "&since=never", "&after=-1"] {
        assert_eq!(page(bad).await["code"], "validation_error", "{bad}");
    }
    let missing = read(api.get("u", "/agent/logs").send().await.unwrap()).await.1;
    assert_eq!(missing["errors"][0]["loc"], json!(["query", "run_id"]));
}

#[tokio::test]
async fn cross_origin_requests_and_request_ids_are_answered() {
    let api = Api::start().await;
    let preflight = api
        .client
        .request(Method::OPTIONS, format!("{}/agent/execute", api.base))
        .header("origin", "https://a.example")
        .header("access-control-request-method", "POST");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    let answer = api
        .get("u", "/health")
        .header("x-request-id", "mine-1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    let log = api.process.stdout();
    let line = log
        .lines()
        .find(|line| line.contains("request_completed") && line.contains("mine-1"))
        .unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["method"], &line["path"], &line["status_code"]),
        (&json!("GET"), &json!("/health"), &json!(200))
    );
    assert!(line["duration_ms"].is_number());
}
