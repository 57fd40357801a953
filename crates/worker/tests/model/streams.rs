//! Whole replies in both wire forms.

use crate::setup::{BOTH, KEY, request, vendor, vendor_at};
use agent::ports::{ChatMessage, Model, ModelReply, StopReason};
use axum::Router;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Answer, ModelServer, Wire};
use tokio_util::sync::CancellationToken;

async fn ask(model: &impl Model) -> ModelReply {
    model.call(&request(), &CancellationToken::new()).await.unwrap()
}

/// A server that answers each chat request with this body; the list of models with 401.
async fn canned(content_type: &'static str, body: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = async move || ([("content-type", content_type)], body);
    let router = Router::new()
        .route("/v1/models", get(async || axum::http::StatusCode::UNAUTHORIZED))
        .route("/v1/chat/completions", post(answer.clone()))
        .route("/v1/messages", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_text_is_streamed_with_its_tokens() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.push(Answer::text("Grüezi 👋 wohl, zusammen").usage(11, 7));
        let reply = ask(&vendor(wire, &server)).await;
        assert_eq!(reply.text.as_deref(), Some("Grüezi 👋 wohl, zusammen"));
        assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens), (11, 7));
        assert!(!reply.usage.is_estimated);
        assert_eq!((reply.stop, reply.model.as_str()), (StopReason::End, "m-1"));
        let asked = server.requests().remove(0);
        assert_eq!(asked.body["max_tokens"], 2048);
        assert_eq!(asked.body["temperature"], 0.7);
        assert_eq!(server.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn tool_calls_are_streamed_and_their_results_go_back_paired() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        let input = json!({"command": "ls -la | grep \"é\" && echo some more words"});
        server.push(Answer::text_and_calls(
            "I look",
            vec![("shell", input.clone()), ("shell", json!({}))],
        ));
        server.push(Answer::text("done"));
        let model = vendor(wire, &server);
        let reply = ask(&model).await;
        assert_eq!(reply.stop, StopReason::ToolUse);
        assert_eq!(reply.text.as_deref(), Some("I look"));
        assert_eq!(reply.tool_calls[0].input, input);
        assert_eq!(reply.tool_calls[1].input, json!({}));

        let mut next = request();
        let results = reply.tool_calls.iter().map(|call| ChatMessage::ToolResult {
            call_id: call.id.clone(),
            name: call.name.clone(),
            content: "a.txt".into(),
            is_error: false,
        });
        let results: Vec<_> = results.collect();
        next.messages.push(ChatMessage::Assistant {
            text: reply.text.clone(),
            tool_calls: reply.tool_calls.clone(),
        });
        next.messages.extend(results);
        next.messages.push(ChatMessage::User("hurry".into()));
        model.call(&next, &CancellationToken::new()).await.unwrap();
        assert_eq!(server.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn the_key_goes_into_its_header_only() {
    for (wire, header) in [(Wire::OpenAi, "authorization"), (Wire::Anthropic, "x-api-key")] {
        let server = ModelServer::start().await;
        server.push(Answer::text("hi"));
        let model = vendor(wire, &server);
        ask(&model).await;
        let asked = server.requests().remove(0);
        assert!(asked.header(header).unwrap().ends_with(KEY));
        assert!(!asked.body.to_string().contains(KEY));
        assert!(!format!("{model:?}{}", model.describe()).contains(KEY));
    }
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "shell", "arguments": "{}"}});
    let openai = json!({"model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "choices": [
        {"message": {"role": "assistant", "content": "hi", "tool_calls": [call]}, "finish_reason": "tool_calls"}]});
    let anthropic = json!({"model": "m-1", "type": "message", "stop_reason": "tool_use", "content": [
        {"type": "text", "text": "hi"}, {"type": "tool_use", "id": "c", "name": "shell", "input": {}}],
        "usage": {"input_tokens": 3, "output_tokens": 4}});
    for (wire, body) in [(Wire::OpenAi, openai), (Wire::Anthropic, anthropic)] {
        let url = canned("application/json; charset=utf-8", body.to_string()).await;
        let reply = ask(&vendor_at(wire, &url, Duration::from_secs(30))).await;
        assert_eq!((reply.text.as_deref(), reply.tool_calls.len()), (Some("hi"), 1));
        assert_eq!(reply.usage.total(), 7);
    }
}

#[tokio::test]
async fn a_stream_with_a_stop_reason_but_no_end_mark_counts_and_its_tokens_are_estimated() {
    let event = |data: Value| format!("data: {data}\r\n\r\n");
    let body = event(json!({"choices": [{"delta": {"content": "four"}}]}))
        + &event(json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}));
    let url = canned("text/event-stream", body).await;
    let reply = ask(&vendor_at(Wire::OpenAi, &url, Duration::from_secs(30))).await;
    assert_eq!(reply.text.as_deref(), Some("four"));
    assert_eq!((reply.usage.output_tokens, reply.usage.is_estimated), (1, true));
}

#[tokio::test]
async fn readiness_asks_the_vendor_without_a_model_call() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        assert_eq!(vendor(wire, &server).check().await, Ok(()));
        assert!(server.requests().is_empty());

        let nobody = format!("http://127.0.0.1:{}", testkit::free_port());
        let idle = Duration::from_secs(1);
        let text = vendor_at(wire, &nobody, idle).check().await.unwrap_err();
        assert!(text.contains("cannot be reached"), "{text}");

        let refusing = canned("text/plain", String::new()).await;
        let text = vendor_at(wire, &refusing, idle).check().await.unwrap_err();
        assert!(text.contains("refuses the key"), "{text}");
    }
}
