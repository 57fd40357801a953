//! Tools with settings of a test, and calls as the driver makes them.

use agent::memory::MemoryWorkspace;
use agent::ports::RemoteTools as _;
use agent::tools::{Call, ToolError};
use clap::Parser;
use domain::ToolResult;
use domain::ids::{RunId, StepId, UserId};
use serde_json::Value;
use testkit::vendors::{self, Vendors};
use tokio_util::sync::CancellationToken;
use tools::{OfRun, RunTools, ToolOptions, Tools};
use uuid::Uuid;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    tools: ToolOptions,
}

pub(crate) fn options(arguments: &[(&str, &str)]) -> ToolOptions {
    let arguments = arguments.iter().map(|(name, value)| format!("--{name}={value}"));
    Cli::parse_from(std::iter::once("tools".to_owned()).chain(arguments)).tools
}

pub(crate) fn tools(arguments: &[(&str, &str)]) -> Tools {
    Tools::from_options(&options(arguments)).unwrap()
}

/// Keys and addresses of all connectors.
pub(crate) fn connectors(vendors: &Vendors) -> Vec<(&'static str, String)> {
    vec![
        ("github-token", vendors::GITHUB_KEY.to_owned()),
        ("github-api-url", vendors.url("github")),
        ("linear-api-key", vendors::LINEAR_KEY.to_owned()),
        ("linear-api-url", vendors.url("linear")),
        ("slack-bot-token", vendors::SLACK_KEY.to_owned()),
        ("slack-api-url", vendors.url("slack")),
        ("vendor-timeout-seconds", "1".to_owned()),
    ]
}

pub(crate) fn with(arguments: &[(&'static str, String)]) -> Tools {
    let arguments: Vec<_> = arguments
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    tools(&arguments)
}

pub(crate) fn of_run(tools: &Tools, connector_ids: &[&str]) -> RunTools<MemoryWorkspace> {
    tools.of_run(OfRun {
        connector_ids: connector_ids.iter().map(|id| (*id).to_owned()).collect(),
        workspace: MemoryWorkspace::default(),
    })
}

pub(crate) async fn call(
    run: &RunTools<MemoryWorkspace>,
    name: &str,
    input: &Value,
) -> Result<ToolResult, ToolError> {
    call_as(run, name, input, "key-of-the-step").await
}

pub(crate) async fn call_as(
    run: &RunTools<MemoryWorkspace>,
    name: &str,
    input: &Value,
    idempotency_key: &str,
) -> Result<ToolResult, ToolError> {
    let user_id = UserId("user-1".into());
    let call = Call {
        run_id: RunId(Uuid::nil()),
        step_id: StepId(Uuid::nil()),
        user_id: &user_id,
        tool_name: name,
        tool_input: input,
        idempotency_key,
        epoch: 1,
    };
    let refusal = run.refusal(&call);
    let answered = run.call(&call, &CancellationToken::new()).await;
    if let Some(refusal) = refusal {
        assert_eq!(
            answered.as_ref().ok(),
            Some(&refusal),
            "refused before as when it is made"
        );
    }
    answered
}

/// What a call would be told before anything is sent.
pub(crate) fn refusal(run: &RunTools<MemoryWorkspace>, name: &str, input: &Value) -> Option<String> {
    let user_id = UserId("user-1".into());
    let call = Call {
        run_id: RunId(Uuid::nil()),
        step_id: StepId(Uuid::nil()),
        user_id: &user_id,
        tool_name: name,
        tool_input: input,
        idempotency_key: "key-of-the-step",
        epoch: 1,
    };
    run.refusal(&call)?.error
}

/// The result of a call that our own machinery did not spoil.
pub(crate) async fn told(run: &RunTools<MemoryWorkspace>, name: &str, input: &Value) -> ToolResult {
    call(run, name, input).await.unwrap()
}

pub(crate) fn error(result: &ToolResult) -> &str {
    assert!(!result.success, "{result:?}");
    result.error.as_deref().unwrap()
}
