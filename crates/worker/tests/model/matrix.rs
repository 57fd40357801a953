//! The fault matrix of the model layer: every answer a vendor can give, what is made of it, how often it is asked for, and
//! what is billed. Each row is a test of both wire forms.

use crate::setup::{BOTH, KEY, request, vendor, vendor_at, with_retries};
use agent::ports::{CallWatch, FailedCall, Model, ModelError, ModelReply, StopReason};
use domain::{Price, Prices, SystemClock, Usage};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::{Answer, ModelServer, Wire};
use tokio_util::sync::CancellationToken;
use worker::model::{AnyModel, OpenAi, RetryWaits, Vendor, VendorOptions, WithRetries};

/// Notes what it is shown.
#[derive(Debug, Default)]
struct Noted {
    text: Mutex<String>,
    failed: Mutex<Vec<FailedCall>>,
    /// Nothing more may be spent once a try was billed.
    poor: bool,
}

impl Noted {
    fn billed(&self) -> Vec<FailedCall> {
        self.failed.lock().unwrap().clone()
    }
}

impl CallWatch for Noted {
    fn text(&self, text: &str) {
        self.text.lock().unwrap().push_str(text);
    }

    fn failed(&self, call: FailedCall) {
        self.failed.lock().unwrap().push(call);
    }

    fn may_try_again(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(!self.poor || self.billed().is_empty()))
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Made {
    Reply,
    /// A reply without its call, and the model is told why.
    Cut,
    /// Left to the job, with the wait that was asked for.
    Later(Option<u64>),
    /// The run is paused.
    Spent,
    /// The run fails.
    Refused,
    /// What no call may end with.
    Undecided,
}

fn made(called: &Result<ModelReply, ModelError>) -> Made {
    match called {
        Ok(reply) if reply.stop == StopReason::Length && reply.tool_calls.is_empty() => Made::Cut,
        Ok(_) => Made::Reply,
        Err(ModelError::Transient {
            retry_after,
            try_again_here: false,
            ..
        }) => Made::Later(retry_after.map(|wait| wait.as_secs())),
        Err(ModelError::Spent { .. }) => Made::Spent,
        Err(ModelError::Permanent { .. }) => Made::Refused,
        Err(_) => Made::Undecided,
    }
}

async fn row(answers: &[Answer], expected: Made, requests: usize, billed: usize) {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.script(answers.iter().cloned());
        let primary = vendor_at(wire, &server.url(), Duration::from_millis(400));
        let noted = Noted::default();
        let called = with_retries(primary, None)
            .call_watched(&request(), &noted, &CancellationToken::new())
            .await;
        assert_eq!(made(&called), expected, "{wire:?}: {called:?}");
        assert_eq!(server.requests().len(), requests, "{wire:?}");
        let calls = noted.billed();
        assert_eq!(calls.len(), billed, "{wire:?}: {calls:?}");
        assert!(
            calls.iter().all(|call| call.usage.total() > 0),
            "{wire:?}: {calls:?}"
        );
    }
}

fn status(code: u16) -> Answer {
    Answer::status(code, &[], Value::Null)
}

fn wait(seconds: &str) -> Answer {
    Answer::status(429, &[("retry-after", seconds)], Value::Null)
}

fn ok() -> Answer {
    Answer::text("fine")
}

fn command() -> Value {
    json!({"command": "rm -rf /workspace/old"})
}

/// A 429 that says, in the words of one vendor or the other, that money is spent.
fn limit(kind: &str, code: &str) -> Answer {
    let error = json!({"type": kind, "message": "spent", "details": {"error_code": code}});
    Answer::status(429, &[], json!({"type": "error", "error": error}))
}

macro_rules! matrix {
    ($($name:ident: [$($answer:expr),* $(,)?] => $made:expr, $requests:literal requests, $billed:literal billed;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                row(&[$($answer),*], $made, $requests, $billed).await;
            }
        )*
    };
}

matrix! {
    a_429_with_retry_after_is_waited_for: [wait("1"), ok()] => Made::Reply, 2 requests, 0 billed;
    a_429_without_retry_after_is_tried_again: [status(429), ok()] => Made::Reply, 2 requests, 0 billed;
    a_429_with_a_long_wait_releases_the_worker: [wait("60")] => Made::Later(Some(60)), 1 requests, 0 billed;
    an_enforced_spend_limit_pauses: [limit("rate_limit_error", "enforced_spend_limit_reached")]
        => Made::Spent, 1 requests, 0 billed;
    a_spent_quota_pauses: [Answer::insufficient_quota()] => Made::Spent, 1 requests, 0 billed;
    a_402_pauses: [status(402)] => Made::Spent, 1 requests, 0 billed;
    a_529_is_tried_three_times: [status(529), status(529), status(529)]
        => Made::Later(None), 3 requests, 0 billed;
    a_503_a_500_and_then_a_reply: [status(503), status(500), ok()] => Made::Reply, 3 requests, 0 billed;
    a_408_is_tried_again: [status(408), ok()] => Made::Reply, 2 requests, 0 billed;
    an_error_event_inside_a_200_is_a_failed_call_that_is_billed: [Answer::error_mid_stream(), ok()]
        => Made::Reply, 2 requests, 1 billed;
    a_stream_cut_inside_a_tool_call_is_billed_and_nothing_of_it_runs: [Answer::cut_connection("shell", command()), ok()]
        => Made::Reply, 2 requests, 1 billed;
    a_silent_stream_is_given_up: [Answer::silent(), ok()] => Made::Reply, 2 requests, 0 billed;
    a_server_that_says_nothing_is_given_up: [Answer::hang(), ok()] => Made::Reply, 2 requests, 0 billed;
    a_stop_at_the_length_inside_a_tool_call_never_runs_it: [Answer::cut_tool_call("shell", command())]
        => Made::Cut, 1 requests, 0 billed;
    a_stop_at_the_length_inside_a_text_is_told: [Answer::cut_text("a long story without its end")]
        => Made::Cut, 1 requests, 0 billed;
    a_bad_request_fails: [status(400)] => Made::Refused, 1 requests, 0 billed;
    a_bad_key_fails: [status(401)] => Made::Refused, 1 requests, 0 billed;
    a_forbidden_model_fails: [status(403)] => Made::Refused, 1 requests, 0 billed;
    an_unknown_model_fails: [status(404)] => Made::Refused, 1 requests, 0 billed;
}

#[tokio::test]
async fn after_the_tries_the_fallback_is_asked_and_money_spent_asks_nobody() {
    for (answer, expected, asked) in [(status(529), Made::Reply, 1), (status(402), Made::Spent, 0)] {
        let (first, second) = (ModelServer::start().await, ModelServer::start().await);
        first.otherwise(answer);
        second.otherwise(ok());
        let model = with_retries(
            vendor(Wire::OpenAi, &first),
            Some(vendor(Wire::Anthropic, &second)),
        );
        let called = model.call(&request(), &CancellationToken::new()).await;
        assert_eq!(made(&called), expected);
        assert_eq!(second.requests().len(), asked);
    }
}

#[tokio::test]
async fn a_billed_try_that_leaves_no_room_ends_the_tries() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.otherwise(Answer::error_mid_stream());
        let noted = Noted {
            poor: true,
            ..Noted::default()
        };
        let called = with_retries(vendor(wire, &server), None)
            .call_watched(&request(), &noted, &CancellationToken::new())
            .await;
        assert_eq!(made(&called), Made::Later(None));
        assert_eq!((server.requests().len(), noted.billed().len()), (1, 1));
    }
}

#[tokio::test]
async fn the_text_of_a_reply_is_shown_piece_by_piece_while_it_comes() {
    for wire in BOTH {
        let server = ModelServer::start().await;
        server.push(Answer::text_and_calls(
            "First I look around, then I decide",
            vec![("shell", json!({"command": "ls"}))],
        ));
        let noted = Noted::default();
        let reply = vendor(wire, &server)
            .call_watched(&request(), &noted, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(reply.text.as_deref(), Some(noted.text.lock().unwrap().as_str()));
    }
}

#[tokio::test]
async fn calls_are_priced_and_failed_ones_too_and_an_unknown_model_has_no_price() {
    let server = ModelServer::start().await;
    server.script([Answer::error_mid_stream(), Answer::text("ok").usage(1000, 100)]);
    let options = |model: &str| VendorOptions {
        model: model.into(),
        key: Some(KEY.into()),
        base_url: Some(server.url().into()),
        idle: Duration::from_secs(30),
    };
    let named = |model: &str| {
        let vendor = Vendor::OpenAi(OpenAi::new(&options(model), Arc::new(SystemClock)).unwrap());
        let waits = RetryWaits(vec![Duration::ZERO; 2]);
        WithRetries::new(AnyModel::Vendor(vendor), None, waits)
    };
    let noted = Noted::default();
    let model = named("gpt-4o-mini");
    let reply = model
        .call_watched(&request(), &noted, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(reply.usage.cost_micros, Some(150 + 60));
    assert!(noted.billed()[0].usage.cost_micros.is_some_and(|cost| cost > 0));
    assert!(model.price().is_some());
    assert_eq!(named("who-knows").price(), None);
    let own = Prices::with_own(&json!([{"model": "who-knows", "input": 1, "output": 2}])).unwrap();
    let priced = named("who-knows").with_prices(own, Arc::new(SystemClock));
    let usage = Usage {
        output_tokens: 10,
        ..Usage::default()
    };
    assert_eq!(priced.price().map(|price: Price| price.cost(usage)), Some(20));
}
