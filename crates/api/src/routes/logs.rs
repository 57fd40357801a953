//! `GET /agent/logs`: polling, or the default stream with `mode=stream`.

use super::stream;
use crate::auth::{Principal, User};
use crate::conditional;
use crate::error::Problem;
use crate::extract::{Query, parse_run_id};
use crate::fields::Fields;
use crate::openapi::answers::LogsPage;
use crate::openapi::events::DefaultStreamEvent;
use crate::openapi::params::{ConditionHeader, LastEventIdHeader, LogsQuery, StreamPosition};
use crate::openapi::refusals::ForStream;
use crate::state::App;
use crate::stream::cursor::Asked;
use crate::stream::frames::Form;
use axum::extract::State;
use axum::response::Response;
use domain::RunId;
use http::HeaderMap;
use runs::LogQuery;
use serde_json::json;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: i64 = 1000;

/// The log of a run: a page, or the default stream.
#[utoipa::path(
    get,
    path = "/agent/logs",
    operation_id = "logs",
    tag = "runs",
    params(LogsQuery, StreamPosition, LastEventIdHeader, ConditionHeader),
    responses((status = 200, description = "A page, or the default stream", content((LogsPage = "application/json"), (DefaultStreamEvent = "text/event-stream"))), (status = 204, description = "The stream is over and everything was seen"), (status = 304, description = "Nothing has changed since the `ETag` given"), ForStream),
    security(("bearer" = []))
)]
pub async fn logs(
    State(app): State<App>,
    User(principal): User,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut fields = Fields::of_query(&query);
    let run = fields.required_text("run_id");
    let mode = fields.text("mode").unwrap_or_else(|| "polling".to_owned());
    fields.finish()?;
    let run = parse_run_id(run.trim())?;
    match mode.as_str() {
        "stream" | "streaming" => {
            stream::open(&app, &principal, run, &headers, (&query, Form::Default)).await
        }
        "polling" => poll(&app, &principal, run, (&query, &headers)).await,
        other => {
            app.head(&principal, run).await?;
            let detail = format!("Invalid mode: {other}. Use 'polling' or 'stream'");
            Err(Problem::bad_request("invalid_mode", detail))
        }
    }
}

async fn poll(
    app: &App,
    caller: &Principal,
    run: RunId,
    (query, headers): (&Query, &HeaderMap),
) -> Result<Response, Problem> {
    let mut fields = Fields::of_query(query);
    let wanted = LogQuery {
        since: fields.time("since"),
        after: fields.int("after", 0..=i64::MAX),
        limit: fields
            .int("limit", 1..=MAX_LIMIT)
            .map_or(DEFAULT_LIMIT, |limit| limit as u32),
    };
    fields.finish()?;
    app.head(caller, run).await?;
    // Of no use to a page, but a client that sends nonsense is told so.
    Asked::parse(headers, query)?;
    let page = app.reader(caller).logs(run, wanted).await?;
    let body = json!({"logs": page.logs, "has_more": page.has_more, "next_cursor": page.next_cursor});
    Ok(conditional::answer(headers, &body))
}
