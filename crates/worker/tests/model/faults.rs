//! One try against every kind of failure.

use crate::setup::{BOTH, KEY, request, vendor, vendor_at};
use agent::ports::{Model, ModelError, ModelReply, StopReason};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Answer, ModelServer, Wire, eventually};
use tokio_util::sync::CancellationToken;

async fn answer(wire: Wire, answer: Answer) -> Result<ModelReply, ModelError> {
    let server = ModelServer::start().await;
    server.push(answer);
    vendor(wire, &server)
        .call(&request(), &CancellationToken::new())
        .await
}

fn is_worth_a_try(error: &ModelError) -> bool {
    matches!(
        error,
        ModelError::Transient {
            try_again_here: true,
            ..
        }
    )
}

#[tokio::test]
async fn busy_and_broken_servers_are_worth_another_try() {
    for wire in BOTH {
        for status in [408, 429, 500, 502, 503, 504, 529] {
            let error = answer(wire, Answer::status(status, &[], Value::Null))
                .await
                .unwrap_err();
            assert!(is_worth_a_try(&error), "{wire:?} {status}: {error}");
            assert!(error.to_string().contains(&status.to_string()));
        }
    }
}

#[tokio::test]
async fn refusals_are_final_and_spent_money_is_told_apart() {
    let spent = json!({"type": "error", "error": {"type": "rate_limit_error", "message": "spent",
        "details": {"error_code": "enforced_spend_limit_reached"}}});
    for wire in BOTH {
        let refusals = [400, 401, 403, 404, 413, 422].map(|status| Answer::status(status, &[], Value::Null));
        let spent = [
            Answer::insufficient_quota(),
            Answer::status(402, &[], Value::Null),
            Answer::status(429, &[], spent.clone()),
        ];
        for refusal in refusals {
            let what = format!("{refusal:?}");
            let error = answer(wire, refusal).await.unwrap_err();
            assert!(
                matches!(error, ModelError::Permanent { .. }),
                "{wire:?} {what}: {error}"
            );
        }
        for spent in spent {
            let what = format!("{spent:?}");
            let error = answer(wire, spent).await.unwrap_err();
            assert!(
                matches!(error, ModelError::Spent { .. }),
                "{wire:?} {what}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn the_wait_asked_for_is_passed_on() {
    for wire in BOTH {
        let busy = Answer::status(429, &[("retry-after", "7")], Value::Null);
        let ModelError::Transient {
            retry_after, status, ..
        } = answer(wire, busy).await.unwrap_err()
        else {
            panic!("a rate limit is transient");
        };
        assert_eq!((retry_after, status), (Some(Duration::from_secs(7)), Some(429)));
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_a_failed_call() {
    for wire in BOTH {
        let error = answer(wire, Answer::error_mid_stream()).await.unwrap_err();
        assert!(is_worth_a_try(&error), "{error}");
    }
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_is_a_failed_call() {
    for wire in BOTH {
        let input = json!({"command": "rm -rf /workspace/old"});
        let error = answer(wire, Answer::cut_connection("shell", input))
            .await
            .unwrap_err();
        assert!(is_worth_a_try(&error), "{error}");
    }
}

#[tokio::test]
async fn a_tool_call_cut_at_the_limit_never_gets_out() {
    for wire in BOTH {
        let input = json!({"command": "rm -rf /workspace/old"});
        let reply = answer(wire, Answer::cut_tool_call("shell", input)).await.unwrap();
        assert_eq!((reply.stop, reply.tool_calls.len()), (StopReason::Length, 0));
        let reply = answer(wire, Answer::cut_text("a long story without its end"))
            .await
            .unwrap();
        assert_eq!(reply.stop, StopReason::Length);
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    for wire in BOTH {
        for silence in [Answer::silent(), Answer::hang()] {
            let server = ModelServer::start().await;
            server.push(silence);
            let model = vendor_at(wire, &server.url(), Duration::from_millis(300));
            let error = model
                .call(&request(), &CancellationToken::new())
                .await
                .unwrap_err();
            assert!(is_worth_a_try(&error), "{error}");
        }
    }
}

#[tokio::test]
async fn a_slow_stream_is_no_silent_one() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.push(Answer::text("a text of some pieces").paced(Duration::from_millis(100)));
        let model = vendor_at(wire, &server.url(), Duration::from_millis(600));
        let reply = model.call(&request(), &CancellationToken::new()).await.unwrap();
        assert_eq!(reply.text.as_deref(), Some("a text of some pieces"));
    }
}

#[tokio::test]
async fn a_cancelled_call_drops_its_connection() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.push(Answer::silent());
        let model = vendor(wire, &server);
        let cancel = CancellationToken::new();
        let request = request();
        let stop = async {
            eventually(Duration::from_secs(10), async || server.open_requests() == 1).await;
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(model.call(&request, &cancel), stop);
        assert!(matches!(result, Err(ModelError::Cancelled)));
        eventually(Duration::from_secs(10), async || server.open_requests() == 0).await;
    }
}

#[tokio::test]
async fn nobody_there_is_connection_trouble_and_the_error_tells_no_secret() {
    for wire in BOTH {
        let url = format!("http://user:{KEY}@127.0.0.1:{}", testkit::free_port());
        let model = vendor_at(wire, &url, Duration::from_secs(5));
        let error = model
            .call(&request(), &CancellationToken::new())
            .await
            .unwrap_err();
        assert!(is_worth_a_try(&error));
        assert!(error.to_string().contains("connection failed"), "{error}");
        assert!(!format!("{error:?} {error} {}", model.describe()).contains(KEY));
        assert!(!format!("{model:?}").contains(KEY), "{model:?}");
    }
}
