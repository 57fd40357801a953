//! Retries, the fallback vendor, recording, metrics.

use crate::setup::{BOTH, KEY, request, vendor, with_retries};
use agent::ports::{Model, ModelError};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use std::time::{Duration, Instant};
use testkit::{Answer, ModelServer, Wire, eventually};
use tokio_util::sync::CancellationToken;
use worker::model::{AnyModel, Recorded, Recording, RetryWaits, WithRetries};

fn busy(retry_after: &str) -> Answer {
    Answer::status(429, &[("retry-after", retry_after)], Value::Null)
}

#[tokio::test]
async fn a_wait_asked_for_is_waited_before_the_next_try() {
    let server = ModelServer::start().await;
    server.script([busy("1"), Answer::text("at last")]);
    let model = with_retries(vendor(Wire::OpenAi, &server), None);
    let started = Instant::now();
    let reply = model.call(&request(), &CancellationToken::new()).await.unwrap();
    assert_eq!(reply.text.as_deref(), Some("at last"));
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_long_wait_is_left_to_the_job() {
    let server = ModelServer::start().await;
    server.push(busy("60"));
    let model = with_retries(vendor(Wire::Anthropic, &server), None);
    let error = model
        .call(&request(), &CancellationToken::new())
        .await
        .unwrap_err();
    let ModelError::Transient {
        retry_after,
        try_again_here: false,
        ..
    } = error
    else {
        panic!("{error} must be left to the job");
    };
    assert_eq!(retry_after, Some(Duration::from_mins(1)));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_call_is_tried_three_times() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.script([
            Answer::overloaded(),
            Answer::error_mid_stream(),
            Answer::text("ok"),
        ]);
        let model = with_retries(vendor(wire, &server), None);
        assert!(model.call(&request(), &CancellationToken::new()).await.is_ok());

        server.otherwise(Answer::overloaded());
        let error = model
            .call(&request(), &CancellationToken::new())
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            ModelError::Transient {
                try_again_here: false,
                status: Some(529),
                ..
            }
        ));
        assert_eq!(server.requests().len(), 6);
    }
}

#[tokio::test]
async fn a_refusal_is_tried_once_and_asks_no_fallback() {
    let (first, second) = (ModelServer::start().await, ModelServer::start().await);
    first.push(Answer::insufficient_quota());
    let model = with_retries(
        vendor(Wire::OpenAi, &first),
        Some(vendor(Wire::Anthropic, &second)),
    );
    let error = model
        .call(&request(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        ModelError::Spent {
            status: Some(429),
            ..
        }
    ));
    assert_eq!((first.requests().len(), second.requests().len()), (1, 0));
}

#[tokio::test]
async fn the_fallback_vendor_is_asked_once_after_the_tries() {
    let (first, second) = (ModelServer::start().await, ModelServer::start().await);
    first.otherwise(Answer::overloaded());
    second.script([
        Answer::text("from the other"),
        Answer::status(401, &[], Value::Null),
    ]);
    let model = with_retries(
        vendor(Wire::Anthropic, &first),
        Some(vendor(Wire::OpenAi, &second)),
    );
    let reply = model.call(&request(), &CancellationToken::new()).await.unwrap();
    assert_eq!(reply.provider, "openai");
    assert_eq!((first.requests().len(), second.requests().len()), (3, 1));

    let error = model
        .call(&request(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::Transient {
                status: Some(529),
                ..
            }
        ),
        "the fallback's refusal must not end the run: {error}"
    );
    assert_eq!((first.requests().len(), second.requests().len()), (6, 2));
}

#[tokio::test]
async fn a_wait_between_tries_ends_with_the_cancellation() {
    let server = ModelServer::start().await;
    server.push(Answer::overloaded());
    let waits = RetryWaits(vec![Duration::from_secs(9)]);
    let model = WithRetries::new(AnyModel::Vendor(vendor(Wire::OpenAi, &server)), None, waits);
    let cancel = CancellationToken::new();
    let request = request();
    let stop = async {
        let answered = async || server.requests().len() == 1 && server.open_requests() == 0;
        eventually(Duration::from_secs(10), answered).await;
        cancel.cancel();
    };
    let started = Instant::now();
    let (result, ()) = tokio::join!(model.call(&request, &cancel), stop);
    assert!(matches!(result, Err(ModelError::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn what_was_recorded_is_played_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let cassettes = dir.path().join("cassettes");
    let server = ModelServer::start().await;
    server.push(Answer::tool_calls(vec![(
        "shell",
        serde_json::json!({"command": "ls"}),
    )]));
    let recording = Recording::new(vendor(Wire::Anthropic, &server), cassettes.clone());
    let live = recording
        .call(&request(), &CancellationToken::new())
        .await
        .unwrap();
    drop(server);

    let files: Vec<_> = std::fs::read_dir(&cassettes).unwrap().collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(files[0].as_ref().unwrap().path()).unwrap();
    assert!(!text.contains(KEY));

    let recorded = Recorded::new(cassettes).unwrap();
    let mut later = request();
    later.run_id = domain::RunId("00000000-0000-4000-8000-000000000002".parse().unwrap());
    let played = recorded.call(&later, &CancellationToken::new()).await.unwrap();
    assert_eq!((&played.tool_calls, played.usage), (&live.tool_calls, live.usage));
    assert_eq!(played.provider, "recorded");
    later
        .messages
        .push(agent::ports::ChatMessage::User("more".into()));
    let miss = recorded.call(&later, &CancellationToken::new()).await;
    assert!(matches!(miss, Err(ModelError::Permanent { .. })));
}

#[tokio::test]
async fn tries_and_tokens_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = ModelServer::start().await;
    server.script([Answer::overloaded(), Answer::text("ok").usage(11, 7)]);
    let model = with_retries(vendor(Wire::OpenAi, &server), None);
    model.call(&request(), &CancellationToken::new()).await.unwrap();
    let text = handle.render();
    for line in [
        r#"agent_llm_requests_total{provider="openai",model="m-1",status="success"} 1"#,
        r#"agent_llm_requests_total{provider="openai",model="m-1",status="transient_error"} 1"#,
        r#"agent_llm_tokens_total{provider="openai",type="input"} 11"#,
        r#"agent_llm_tokens_total{provider="openai",type="output"} 7"#,
        "agent_llm_request_seconds_count 2",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
