//! `GET /agent/run/{run_id}/events`: a page as JSON, or the named stream when the client accepts SSE.

use super::stream;
use crate::auth::{Principal, Spectator, User};
use crate::conditional;
use crate::error::Problem;
use crate::extract::{Query, RunPath};
use crate::fields::Fields;
use crate::openapi::answers::EventsPage;
use crate::openapi::events::NamedStreamEvent;
use crate::openapi::params::{ConditionHeader, EventsQuery, LastEventIdHeader, RunIdPath, StreamPosition};
use crate::openapi::refusals::ForStream;
use crate::state::App;
use crate::stream::cursor::Asked;
use crate::stream::frames::Form;
use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use domain::RunId;
use domain::wire::named_data;
use http::request::Parts;
use http::{HeaderMap, header};
use runs::reader::RunParts;
use serde_json::{Value, json};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: i64 = 1000;

/// Events of a run with its steps and messages: a page, or the named stream. A ticket opens the stream only.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/events",
    operation_id = "events",
    tag = "runs",
    params(RunIdPath, EventsQuery, StreamPosition, LastEventIdHeader, ConditionHeader),
    responses((status = 200, description = "A page, or the named stream when `Accept` holds `text/event-stream`", content((EventsPage = "application/json"), (NamedStreamEvent = "text/event-stream"))), (status = 204, description = "The stream is over and everything was seen"), (status = 304, description = "Nothing has changed since the `ETag` given"), ForStream),
    security(("bearer" = []), ("ticket" = []))
)]
pub async fn events(
    State(app): State<App>,
    EventsCaller(principal): EventsCaller,
    RunPath(run): RunPath,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if accepts_sse(&headers) {
        return stream::open(&app, &principal, run, &headers, (&query, Form::Named)).await;
    }
    page(&app, &principal, run, (&query, &headers)).await
}

/// A ticket is for the stream alone, not for the page.
#[derive(Debug)]
pub struct EventsCaller(Principal);

impl FromRequestParts<App> for EventsCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if accepts_sse(&parts.headers) {
            let Spectator(principal) = Spectator::from_request_parts(parts, app).await?;
            return Ok(Self(principal));
        }
        let User(principal) = User::from_request_parts(parts, app).await?;
        Ok(Self(principal))
    }
}

fn accepts_sse(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT);
    accepted.iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.to_ascii_lowercase().contains("text/event-stream"))
    })
}

async fn page(
    app: &App,
    caller: &Principal,
    run: RunId,
    (query, headers): (&Query, &HeaderMap),
) -> Result<Response, Problem> {
    let mut fields = Fields::of_query(query);
    let since = fields.time("since");
    let after = fields.int("after", 0..=i64::MAX).unwrap_or(0);
    let limit = fields
        .int("limit", 1..=MAX_LIMIT)
        .map_or(DEFAULT_LIMIT, |limit| limit as u32);
    fields.finish()?;
    let head = app.head(caller, run).await?;
    // Of no use to a page, but a client that sends nonsense is told so.
    Asked::parse(headers, query)?;
    let start = match since {
        Some(since) => app.reader(caller).sequence_at(run, since).await?.max(after),
        None => after,
    };
    let row = app
        .reader(caller)
        .run(run)
        .await?
        .ok_or_else(Problem::run_not_found)?;
    let events = app.reader(caller).events_after(run, start, limit).await?;
    let shown = |event: &domain::Event| {
        let (name, data) = named_data(event);
        json!({"seq": event.seq, "event": name, "data": data})
    };
    let body = json!({
        "run": brief(&row),
        "steps": app.reader(caller).parts(run, RunParts::Steps, i64::from(limit)).await?,
        "messages": app.reader(caller).parts(run, RunParts::Messages, i64::from(limit)).await?,
        "events": events.iter().map(shown).collect::<Vec<_>>(),
        "last_seq": head.last_seq.max(events.last().map_or(0, |event| event.seq)),
    });
    Ok(conditional::answer(headers, &body))
}

fn brief(row: &Value) -> Value {
    json!({
        "id": row["id"],
        "status": row["status"],
        "current_phase": row["current_phase"],
        "plan": row["plan"],
        "error_message": row["error_message"],
    })
}
