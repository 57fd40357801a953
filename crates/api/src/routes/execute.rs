//! `POST /agent/execute`: one body, nine actions.

mod body;

use super::list;
use super::rules::refused;
use super::servers::mcp_servers;
use super::too_early;
use crate::auth::{Principal, User, idempotency_key};
use crate::edge::Trace;
use crate::error::Problem;
use crate::extract::Json;
use crate::openapi::answers::ExecuteAnswer;
use crate::openapi::params::IdempotencyHeader;
use crate::openapi::refusals::ForExecute;
use crate::openapi::request::ExecuteRequest;
use crate::state::App;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use body::Execute;
use domain::breakage::{self, Breakage};
use domain::budget::{Budget, BudgetChange};
use domain::canonical::{canonical, sha256_hex};
use domain::{Command, JobId, MessageId, Rejection, RunId, RunStatus, UserId};
use http::HeaderMap;
use runs::{CommandError, Committed, Created, IdempotencyKey, NewRun, Orchestration, RetryEdits};
use serde_json::{Value, json};

/// A caller and the trace of the request: what every action needs.
struct Call<'a> {
    app: &'a App,
    caller: &'a Principal,
    trace: &'a Trace,
}

/// Create, list, start, stop, pause, resume, retry or look at a run.
#[utoipa::path(
    post,
    path = "/agent/execute",
    operation_id = "execute",
    tag = "runs",
    request_body = ExecuteRequest,
    params(IdempotencyHeader),
    responses((status = 200, description = "Done", body = ExecuteAnswer), ForExecute),
    security(("bearer" = []))
)]
pub async fn execute(
    State(app): State<App>,
    User(principal): User,
    trace: Trace,
    headers: HeaderMap,
    Json {
        fields: request,
        whole,
    }: Json<Execute>,
) -> Result<Response, Problem> {
    let call = Call {
        app: &app,
        caller: &principal,
        trace: &trace,
    };
    let answer = match request.action.as_str() {
        "create" => call.create(request, stored_key(&headers, &whole)?).await?,
        "list" => list::page(&app, &principal, request.listing()).await?,
        "start" => call.start(request.named_run()?).await?,
        "stop" | "cancel" => call.stop(request.named_run()?).await?,
        "pause" => call.pause(request.named_run()?).await?,
        "resume" => call.resume(request.named_run()?, request.user_input).await?,
        "retry" => {
            let key = stored_key(&headers, &whole)?;
            call.retry(&request, key).await?
        }
        "status" => call.status(request.named_run()?).await?,
        unknown => {
            return Err(Problem::bad_request(
                "unknown_action",
                format!("Unknown action: {unknown}"),
            ));
        }
    };
    Ok(axum::Json(answer).into_response())
}

/// The key with the hash of the body it belongs to; the order of the body's members does not matter.
fn stored_key(headers: &HeaderMap, whole: &Value) -> Result<Option<IdempotencyKey>, Problem> {
    let key = idempotency_key(headers)?;
    Ok(key.map(|key| IdempotencyKey {
        key,
        request_hash: sha256_hex(&canonical(whole)),
    }))
}

/// What every success has.
fn answer(run: RunId, status: RunStatus, message: &str, plan: Option<&Value>) -> Value {
    json!({"run_id": run, "status": status, "message": message, "plan": plan})
}

impl Call<'_> {
    fn user(&self) -> &UserId {
        &self.caller.user_id
    }

    async fn create(&self, request: Execute, key: Option<IdempotencyKey>) -> Result<Value, Problem> {
        let prompt = request.prompt.filter(|prompt| !prompt.trim().is_empty());
        let prompt = prompt.ok_or_else(|| Problem::bad_request("prompt_required", "Prompt is required"))?;
        let budget = self.budget(request.budget.as_ref())?;
        let rules = request.rules.checked()?;
        let servers = mcp_servers(request.mcp_servers.as_ref())?;
        self.app.may_write()?;
        if let Some(answer) = self.pay(key.as_ref()).await? {
            return Ok(answer);
        }
        let limits = &self.app.limits;
        let new = NewRun {
            user_id: self.user().clone(),
            prompt,
            connector_ids: request.connector_ids,
            project_id: request.project_id,
            priority: request.priority,
            auto_start: request.auto_start.unwrap_or(limits.create_autostart),
            retry_of: None,
            copy_workspace: false,
            rules,
            traceparent: self.trace.traceparent.clone(),
            max_retries: limits.max_retries,
        };
        let orchestration = self.orchestration().with_budget(budget).with_mcp_servers(servers);
        let created = orchestration.create(new, key).await?;
        Ok(self.created(created).await)
    }

    /// What a new run may spend: the default, as far as the caller does not say otherwise.
    fn budget(&self, asked: Option<&Value>) -> Result<Budget, Problem> {
        let budget = self.app.limits.budget;
        let Some(asked) = asked else {
            return Ok(budget);
        };
        let change = BudgetChange::from_value(asked).map_err(|fault| super::budget::invalid(&fault))?;
        Ok(budget.changed(&change))
    }

    async fn retry(&self, request: &Execute, key: Option<IdempotencyKey>) -> Result<Value, Problem> {
        let run = request.named_run()?;
        self.app.may_write()?;
        self.app.head(self.caller, run).await?;
        if let Some(answer) = self.pay(key.as_ref()).await? {
            return Ok(answer);
        }
        let job = (self.trace.traceparent.as_str(), self.app.limits.max_retries);
        let edits = RetryEdits {
            copy_workspace: request.copy_workspace,
            ..RetryEdits::default()
        };
        let orchestration = self.orchestration();
        let retried = orchestration
            .retry_edited(self.user(), (run, edits), key, job)
            .await;
        Ok(self.created(retried.map_err(refused)?).await)
    }

    /// For new runs.
    fn orchestration(&self) -> Orchestration {
        let exempt = self.app.purse.exempts(self.caller);
        self.app.orchestration(self.caller).exempt_from_credits(exempt)
    }

    /// Whether the caller may have a new run. Who cannot pay any more still gets the answer of a request that was paid.
    async fn pay(&self, key: Option<&IdempotencyKey>) -> Result<Option<Value>, Problem> {
        if self.app.purse.may_spend(self.caller).await? {
            return Ok(None);
        }
        let first = match key {
            Some(key) => {
                self.app
                    .orchestration(self.caller)
                    .replayed(self.user(), key)
                    .await?
            }
            None => None,
        };
        first.map(Some).ok_or_else(Problem::insufficient_credits)
    }

    async fn created(&self, created: Created) -> Value {
        let committed = match created {
            Created::Replayed { answer } => return answer,
            Created::New(committed) => committed,
        };
        self.app.delivery.deliver(&committed, false).await;
        let message = match committed.run.status {
            RunStatus::Created => "Agent run created",
            _ => "Agent run created and queued for processing",
        };
        answer(committed.run.id, committed.run.status, message, None)
    }

    /// Runs a command and delivers what it led to.
    async fn command(&self, run: RunId, command: Command) -> Result<Committed, CommandError> {
        if breakage::is(Breakage::PushBeforeCommit) {
            too_early::push(self.app, self.trace, run, &command).await;
        }
        let traceparent = &self.trace.traceparent;
        let signal = matches!(command, Command::Stop | Command::Pause);
        let orchestration = self.app.orchestration(self.caller);
        let committed = orchestration
            .command(self.user(), run, command, traceparent)
            .await?;
        self.app.delivery.deliver(&committed, signal).await;
        Ok(committed)
    }

    /// As [`Call::command`], answered with the new status and the plan there is.
    async fn change(&self, run: RunId, command: Command, message: &str) -> Result<Value, Problem> {
        self.app.may_write()?;
        let committed = self.command(run, command).await.map_err(refused)?;
        let plan = self.plan(run).await?;
        Ok(answer(run, committed.run.status, message, Some(&plan)))
    }

    async fn start(&self, run: RunId) -> Result<Value, Problem> {
        self.app.may_write()?;
        let command = Command::Start {
            job_id: self.job_id(),
        };
        match self.command(run, command).await {
            Ok(committed) => {
                let message = "Agent execution queued for processing";
                Ok(answer(run, committed.run.status, message, None))
            }
            Err(CommandError::Rejected(Rejection::AlreadyRunning(status))) => {
                let plan = self.plan(run).await?;
                Ok(answer(
                    run,
                    status,
                    &format!("Run is already {status}"),
                    Some(&plan),
                ))
            }
            Err(other) => Err(refused(other)),
        }
    }

    async fn stop(&self, run: RunId) -> Result<Value, Problem> {
        self.change(run, Command::Stop, "Agent execution stopped").await
    }

    async fn pause(&self, run: RunId) -> Result<Value, Problem> {
        self.change(run, Command::Pause, "Agent execution paused").await
    }

    async fn resume(&self, run: RunId, user_input: Option<String>) -> Result<Value, Problem> {
        let given = user_input.filter(|text| !text.is_empty());
        let command = Command::Resume {
            user_input: given.map(|text| (MessageId(self.app.ids.uuid()), text)),
            job_id: self.job_id(),
        };
        self.change(run, command, "Agent execution resumed").await
    }

    fn job_id(&self) -> JobId {
        JobId(self.app.ids.uuid())
    }

    async fn plan(&self, run: RunId) -> Result<Value, Problem> {
        let row = self.app.reader(self.caller).run(run).await?;
        Ok(row.map_or(Value::Null, |mut row| row["plan"].take()))
    }

    async fn status(&self, run: RunId) -> Result<Value, Problem> {
        self.app.head(self.caller, run).await?;
        let (row, progress) = (
            self.app.shown_run(self.caller, run).await?,
            self.app.reader(self.caller).progress(run).await?,
        );
        let status = row["status"].as_str().unwrap_or_default();
        Ok(json!({
            "run_id": run,
            "status": status,
            "message": format!("Run is {status}"),
            "plan": row["plan"],
            "progress": progress,
            "retry_of": row["retry_of"],
            "error_message": row["error_message"],
            "waiting_for": row["waiting_for"],
        }))
    }
}
