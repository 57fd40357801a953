//! The model server's wire forms, read as a client would read them.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Answer, ModelServer, eventually};

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}])
}

async fn openai(server: &ModelServer, messages: Value) -> reqwest::Response {
    let body = json!({"model": "gpt-4o", "stream": true, "stream_options": {"include_usage": true},
        "messages": messages, "tools": tools()});
    let url = format!("{}/chat/completions", server.openai_url());
    client()
        .post(url)
        .bearer_auth("sk-test")
        .json(&body)
        .send()
        .await
        .expect("an answer")
}

async fn anthropic(server: &ModelServer, messages: Value) -> reqwest::Response {
    let body = json!({"model": "claude-sonnet-4-20250514", "stream": true, "max_tokens": 2048,
        "messages": messages, "tools": [{"name": "shell", "input_schema": {"type": "object"}}]});
    let request = client().post(format!("{}/v1/messages", server.url())).json(&body);
    request
        .header("x-api-key", "k")
        .header("anthropic-version", "2023-06-01")
        .send()
        .await
        .expect("an answer")
}

fn hello() -> Value {
    json!([{"role": "user", "content": "Grüezi"}])
}

/// The JSON of all `data:` lines; `[DONE]` stays a string.
fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines
        .map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data)))
        .collect()
}

fn arguments_of(chunks: &[Value], index: u64) -> String {
    let deltas = chunks.iter().flat_map(|chunk| {
        chunk["choices"][0]["delta"]["tool_calls"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    let own = deltas.filter(|call| call["index"] == index);
    own.map(|call| {
        call["function"]["arguments"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
    .collect()
}

fn input_of(events: &[Value], index: u64) -> String {
    let own = events.iter().filter(|event| event["index"] == index);
    own.map(|event| {
        event["delta"]["partial_json"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
    .collect()
}

#[tokio::test]
async fn openai_text_arrives_in_pieces_with_usage_and_done() {
    let server = ModelServer::start().await;
    server.push(Answer::text("Zürich ist schön – und größer").usage(7, 5));
    let response = openai(&server, hello()).await;
    assert!(
        response.headers()["content-type"]
            .to_str()
            .expect("text")
            .starts_with("text/event-stream")
    );
    let chunks = events(&response.text().await.expect("whole"));
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Zürich ist schön – und größer");
    let [.., finish, usage, done] = chunks.as_slice() else {
        panic!("{chunks:?}")
    };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (
            &usage["choices"],
            &usage["usage"]["prompt_tokens"],
            &usage["usage"]["total_tokens"]
        ),
        (&json!([]), &json!(7), &json!(12))
    );
    assert_eq!(done, "[DONE]");
}

#[tokio::test]
async fn openai_tool_calls_are_deltas_by_index() {
    let server = ModelServer::start().await;
    let (first, second) = (json!({"command": "ls -l /tmp"}), json!({"command": "echo ü"}));
    server.push(Answer::tool_calls(vec![
        ("shell", first.clone()),
        ("shell", second.clone()),
    ]));
    let chunks = events(&openai(&server, hello()).await.text().await.expect("whole"));
    assert_eq!(
        serde_json::from_str::<Value>(&arguments_of(&chunks, 0)).expect("JSON"),
        first
    );
    assert_eq!(
        serde_json::from_str::<Value>(&arguments_of(&chunks, 1)).expect("JSON"),
        second
    );
    assert!(
        chunks
            .iter()
            .any(|chunk| chunk["choices"][0]["finish_reason"] == "tool_calls")
    );
    let follow_up = json!([{"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1_0", "type": "function", "function": {"name": "shell", "arguments": "{}"}},
            {"id": "call_1_1", "type": "function", "function": {"name": "shell", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1_0", "content": "a"},
        {"role": "tool", "tool_call_id": "call_1_1", "content": "b"}]);
    server.push(Answer::text("done"));
    assert_eq!(openai(&server, follow_up).await.status(), 200);
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn anthropic_events_come_in_their_order() {
    let server = ModelServer::start().await;
    let input = json!({"command": "ls"});
    server.push(Answer::text_and_calls("I look", vec![("shell", input.clone())]).usage(11, 3));
    let text = anthropic(&server, hello()).await.text().await.expect("whole");
    let events = events(&text);
    let mut kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(text.contains("event: message_start\ndata: {"));
    assert_eq!(
        serde_json::from_str::<Value>(&input_of(&events, 1)).expect("JSON"),
        input
    );
    let delta = events
        .iter()
        .find(|event| event["type"] == "message_delta")
        .expect("there");
    assert_eq!(
        (&delta["delta"]["stop_reason"], &delta["usage"]["output_tokens"]),
        (&json!("tool_use"), &json!(3))
    );
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], 11);
}

#[tokio::test]
async fn faults_have_the_form_of_the_provider() {
    let server = ModelServer::start().await;
    server.script([
        Answer::status(429, &[("retry-after", "7")], Value::Null),
        Answer::overloaded(),
        Answer::error_mid_stream(),
        Answer::error_mid_stream(),
        Answer::cut_tool_call("shell", json!({"command": "rm -rf build"})),
        Answer::cut_tool_call("shell", json!({"command": "rm -rf build"})),
    ]);
    let limited = openai(&server, hello()).await;
    assert_eq!(
        (limited.status().as_u16(), &limited.headers()["retry-after"]),
        (429, &"7".parse().expect("a value"))
    );
    assert_eq!(
        limited.json::<Value>().await.expect("JSON")["error"]["code"],
        "rate_limit_exceeded"
    );
    let overloaded = anthropic(&server, hello()).await;
    assert_eq!(overloaded.status().as_u16(), 529);
    assert_eq!(
        overloaded.json::<Value>().await.expect("JSON")["error"]["type"],
        "overloaded_error"
    );
    let broken = openai(&server, hello())
        .await
        .text()
        .await
        .expect("an orderly end");
    assert!(
        events(&broken).last().expect("events")["error"]["message"].is_string() && !broken.contains("[DONE]")
    );
    let broken = anthropic(&server, hello())
        .await
        .text()
        .await
        .expect("an orderly end");
    assert!(broken.contains("event: error\n") && !broken.contains("message_stop"));
    let cut = events(&openai(&server, hello()).await.text().await.expect("whole"));
    assert!(
        cut.iter()
            .any(|chunk| chunk["choices"][0]["finish_reason"] == "length")
    );
    assert!(serde_json::from_str::<Value>(&arguments_of(&cut, 0)).is_err());
    let cut = events(&anthropic(&server, hello()).await.text().await.expect("whole"));
    assert!(
        cut.iter()
            .any(|event| event["delta"]["stop_reason"] == "max_tokens")
    );
    assert!(serde_json::from_str::<Value>(&input_of(&cut, 0)).is_err());
}

#[tokio::test]
async fn a_closed_connection_is_an_error_of_the_body() {
    let server = ModelServer::start().await;
    server.script([
        Answer::cut_connection("shell", json!({"command": "ls"})),
        Answer::cut_connection("shell", json!({})),
    ]);
    assert!(openai(&server, hello()).await.text().await.is_err());
    assert!(anthropic(&server, hello()).await.text().await.is_err());
}

#[tokio::test]
async fn silent_and_hanging_answers_end_when_the_client_goes() {
    let server = ModelServer::start().await;
    server.script([Answer::silent(), Answer::hang()]);
    let soon = Duration::from_secs(10);
    let mut silent = openai(&server, hello()).await;
    assert_eq!(silent.status(), 200);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), silent.chunk())
            .await
            .is_err()
    );
    assert_eq!(server.open_requests(), 1);
    drop(silent);
    eventually(soon, || async { server.open_requests() == 0 }).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(300), openai(&server, hello()))
            .await
            .is_err()
    );
    assert_eq!((server.requests().len(), server.unused()), (2, 0));
    eventually(soon, || async { server.open_requests() == 0 }).await;
}

#[tokio::test]
async fn wrong_requests_are_refused_and_reported() {
    let server = ModelServer::start().await;
    let unpaired =
        json!([{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "call_9", "content": "a"}]);
    assert_eq!(openai(&server, unpaired).await.status(), 400);
    assert_eq!(openai(&server, hello()).await.status(), 400);
    let no_key = client()
        .post(format!("{}/v1/messages", server.url()))
        .json(&json!({}))
        .send()
        .await
        .expect("answer");
    assert_eq!(no_key.status(), 401);
    let violations = server.violations();
    assert_eq!(violations.len(), 3);
    assert!(
        violations[0].contains("no open call") && violations[1].contains("no answer"),
        "{violations:?}"
    );
}

#[tokio::test]
#[should_panic(expected = "model requests were wrong")]
async fn violations_nobody_reads_fail_the_test() {
    let server = ModelServer::start().await;
    openai(&server, hello()).await;
}

#[tokio::test]
async fn a_script_may_belong_to_one_prompt() {
    let server = ModelServer::start().await;
    server.push(Answer::text("general"));
    server.script_for("Grüezi", [Answer::text("special")]);
    let body = openai(&server, hello()).await.text().await.expect("whole");
    assert!(
        body.contains("\"special\"") && !body.contains("general"),
        "{body}"
    );
    let other = json!([{"role": "user", "content": "hi"}]);
    assert!(
        openai(&server, other)
            .await
            .text()
            .await
            .expect("whole")
            .contains("general")
    );
}
