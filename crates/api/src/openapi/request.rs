//! Bodies that are sent in. They are read field by field ([`crate::fields`]); here is what may be sent.

use serde_json::Value;
use utoipa::openapi::schema::OneOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// `POST /agent/execute`: one of three, told apart by `action`.
#[derive(Debug)]
pub struct ExecuteRequest;

impl PartialSchema for ExecuteRequest {
    fn schema() -> RefOr<Schema> {
        let kinds = [
            CreateRequest::name(),
            ListRequest::name(),
            RunActionRequest::name(),
        ];
        let one_of = kinds.into_iter().fold(OneOfBuilder::new(), |one_of, name| {
            one_of.item(Ref::from_schema_name(name))
        });
        RefOr::T(Schema::OneOf(one_of.build()))
    }
}

impl ToSchema for ExecuteRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((CreateRequest::name().into_owned(), CreateRequest::schema()));
        schemas.push((ListRequest::name().into_owned(), ListRequest::schema()));
        schemas.push((RunActionRequest::name().into_owned(), RunActionRequest::schema()));
    }
}

/// The action of [`CreateRequest`].
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum CreateActionRequest {
    Create,
}

/// The action of [`ListRequest`].
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ListActionRequest {
    List,
}

/// Actions that name a run.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum ActionRequest {
    Start,
    Stop,
    Cancel,
    Pause,
    Resume,
    Retry,
    Status,
}

/// A new run.
#[derive(Debug, ToSchema)]
pub struct CreateRequest {
    #[schema(inline)]
    pub action: CreateActionRequest,
    /// Not blank.
    #[schema(pattern = r"^[^\u0000]*[^\s\u0000][^\u0000]*$")]
    pub prompt: String,
    pub project_id: Option<String>,
    /// Duplicates count once.
    pub connector_ids: Option<Vec<String>>,
    /// Start the run at once; without it as `AGENT_CREATE_AUTOSTART` says.
    pub auto_start: Option<bool>,
    /// What the run may do without asking: `allow`, `ask` or `deny` by tool or `tool.operation`.
    #[schema(value_type = Option<Object>)]
    pub policy: Option<Value>,
    /// Wait for a person after the plan is made.
    pub plan_only: Option<bool>,
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<i32>,
    /// Caps of the run; what is not named is as `AGENT_DEFAULT_BUDGET` says.
    pub budget: Option<BudgetRequest>,
    /// MCP servers the run may use, by their names in `MCP_SERVERS_FILE`; without it those of `MCP_DEFAULT_SERVERS`.
    #[schema(max_items = 16)]
    pub mcp_servers: Option<Vec<String>>,
    /// Not used by this action.
    pub run_id: Option<String>,
    /// Not used by this action.
    pub user_input: Option<String>,
    /// Not used by this action.
    pub copy_workspace: Option<bool>,
    /// Not used by this action.
    pub status: Option<String>,
    /// Not used by this action.
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<i32>,
    /// Not used by this action.
    pub cursor: Option<String>,
}

/// The caller's runs, newest first.
#[derive(Debug, ToSchema)]
pub struct ListRequest {
    #[schema(inline)]
    pub action: ListActionRequest,
    /// `waiting_input` is another name of `waiting_user`; the empty text means any.
    #[schema(
        pattern = "^(created|queued|planning|executing|waiting_user|waiting_input|paused|completed|failed|cancelled|timeout)?$"
    )]
    pub status: Option<String>,
    #[schema(minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<i32>,
    /// `next_cursor` of the page before.
    #[schema(pattern = r"^[0-9]{16}[0-9a-f]{32}$")]
    pub cursor: Option<String>,
    /// Not used by this action.
    pub run_id: Option<String>,
    /// Not used by this action.
    pub prompt: Option<String>,
    /// Not used by this action.
    pub project_id: Option<String>,
    /// Not used by this action.
    pub user_input: Option<String>,
    /// Not used by this action.
    pub connector_ids: Option<Vec<String>>,
    /// Not used by this action.
    pub auto_start: Option<bool>,
    /// Not used by this action.
    pub copy_workspace: Option<bool>,
    /// Not used by this action.
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<i32>,
}

/// What is to happen to a run. With `copy_workspace` a `retry` starts with the files of the failed run. `resume` stores `user_input` as a message of the user.
#[derive(Debug, ToSchema)]
pub struct RunActionRequest {
    #[schema(inline)]
    pub action: ActionRequest,
    #[schema(format = "uuid")]
    pub run_id: String,
    pub user_input: Option<String>,
    /// `retry`: the new run starts with the files of the run it repeats; without it, with none.
    pub copy_workspace: Option<bool>,
    /// Not used by these actions.
    pub prompt: Option<String>,
    /// Not used by these actions.
    pub project_id: Option<String>,
    /// Not used by these actions.
    pub connector_ids: Option<Vec<String>>,
    /// Not used by these actions.
    pub auto_start: Option<bool>,
    /// Not used by these actions.
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<i32>,
    /// Not used by these actions.
    pub status: Option<String>,
    /// Not used by these actions.
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<i32>,
    /// Not used by these actions.
    pub cursor: Option<String>,
}

/// `POST /agent/status`.
#[derive(Debug, ToSchema)]
pub struct StatusRequest {
    #[schema(format = "uuid")]
    pub run_id: String,
    pub include_steps: Option<bool>,
    pub include_messages: Option<bool>,
    pub include_artifacts: Option<bool>,
    pub include_logs: Option<bool>,
    #[schema(minimum = 1, maximum = 1000, default = 50)]
    pub steps_limit: Option<i32>,
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    pub messages_limit: Option<i32>,
    #[schema(minimum = 1, maximum = 1000, default = 50)]
    pub artifacts_limit: Option<i32>,
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    pub logs_limit: Option<i32>,
}

/// Caps of a run; `null` is none. Each name may begin with `max_`.
#[derive(Debug, ToSchema)]
pub struct BudgetRequest {
    /// Input and output of all model calls.
    #[schema(minimum = 0, maximum = 9_000_000_000_000_000_i64)]
    pub tokens: Option<i64>,
    /// Dollars of all model calls.
    #[schema(minimum = 0, maximum = 9_000_000_000_i64)]
    pub cost_usd: Option<f64>,
    /// Tool calls.
    #[schema(minimum = 0, maximum = 9_000_000_000_000_000_i64)]
    pub steps: Option<i64>,
    /// Working time; waiting and paused time is not counted.
    #[schema(minimum = 0, maximum = 9_000_000_000_000_i64)]
    pub wall_seconds: Option<f64>,
    /// Time of tools that run in a sandbox.
    #[schema(minimum = 0, maximum = 9_000_000_000_000_i64)]
    pub sandbox_seconds: Option<f64>,
}

/// `POST …/budget`. What is not named stays as it is. The caps may also stand at the top level.
#[derive(Debug, ToSchema)]
pub struct BudgetChangeRequest {
    pub budget: BudgetRequest,
}

/// What became of a tool call.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum DecisionRequest {
    Done,
    NotDone,
    Retry,
}

/// `POST …/effects/{step_id}`.
#[derive(Debug, ToSchema)]
pub struct SettleRequest {
    #[schema(inline)]
    pub decision: DecisionRequest,
    /// What the call gave, for `done`.
    pub output: Option<Value>,
    pub note: Option<String>,
    /// `waiting_for.epoch`: a late request then cannot answer a later question.
    #[schema(minimum = 0)]
    pub epoch: Option<i64>,
}
