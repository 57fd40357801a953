//! Models and requests the tests share.

use agent::ports::{ChatMessage, ModelRequest, Purpose, ToolSpec};
use domain::{RunId, SystemClock};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use testkit::{ModelServer, Wire};
use worker::model::{Anthropic, AnyModel, OpenAi, RetryWaits, Vendor, VendorOptions, WithRetries};

pub(crate) const BOTH: [Wire; 2] = [Wire::OpenAi, Wire::Anthropic];
pub(crate) const KEY: &str = "tops3cretkey";

pub(crate) fn vendor_at(wire: Wire, url: &str, idle: Duration) -> Vendor {
    let options = VendorOptions {
        model: "m-1".into(),
        key: Some(KEY.into()),
        base_url: Some(url.into()),
        idle,
    };
    let clock = Arc::new(SystemClock);
    match wire {
        Wire::OpenAi => Vendor::OpenAi(OpenAi::new(&options, clock).unwrap()),
        Wire::Anthropic => Vendor::Anthropic(Anthropic::new(&options, clock).unwrap()),
    }
}

pub(crate) fn vendor(wire: Wire, server: &ModelServer) -> Vendor {
    vendor_at(wire, &server.url(), Duration::from_secs(30))
}

/// Two retries without a wait of our own.
pub(crate) fn with_retries(primary: Vendor, fallback: Option<Vendor>) -> WithRetries {
    let waits = RetryWaits(vec![Duration::ZERO; 2]);
    WithRetries::new(AnyModel::Vendor(primary), fallback.map(AnyModel::Vendor), waits)
}

pub(crate) fn request() -> ModelRequest {
    ModelRequest {
        run_id: RunId("7a5f0000-0000-4000-8000-000000000001".parse().unwrap()),
        purpose: Purpose::Turn { number: 1 },
        attempt: 1,
        prompt: "look around".into(),
        system: "You are careful.".into(),
        messages: vec![ChatMessage::User("look around".into())],
        tools: vec![ToolSpec {
            name: "shell".into(),
            description: "Runs a command".into(),
            input_schema: json!({"type": "object", "properties": {"command": {"type": "string"}}}),
        }],
        max_tokens: 2048,
        temperature: 0.7,
    }
}
