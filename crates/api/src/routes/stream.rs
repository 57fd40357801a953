//! The SSE routes: ownership, cursor table, headers; everything after the first byte is [`crate::stream`]'s.

use super::thinking;
use crate::auth::{Principal, Spectator};
use crate::error::Problem;
use crate::extract::{Query, RunPath};
use crate::openapi::events::{DefaultStreamEvent, NamedStreamEvent};
use crate::openapi::params::{LastEventIdHeader, RunIdPath, StreamPosition};
use crate::openapi::refusals::ForStream;
use crate::quota::Place;
use crate::state::App;
use crate::stream::Viewer;
use crate::stream::cursor::{self, Asked, Head, Opening};
use crate::stream::frames::Form;
use crate::stream::viewer::Setting;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::RunId;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// Follow a run: the default form.
#[utoipa::path(
    get,
    path = "/agent/logs/{run_id}/stream",
    operation_id = "default_stream",
    tag = "streams",
    params(RunIdPath, StreamPosition, LastEventIdHeader),
    responses((status = 200, description = "The stream", body = DefaultStreamEvent, content_type = "text/event-stream"), (status = 204, description = "The stream is over and everything was seen"), ForStream),
    security(("bearer" = []), ("ticket" = []))
)]
pub async fn default_form(
    State(app): State<App>,
    Spectator(principal): Spectator,
    RunPath(run): RunPath,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    open(&app, &principal, run, &headers, (&query, Form::Default)).await
}

/// Follow a run: the named form.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/stream",
    operation_id = "named_stream",
    tag = "streams",
    params(RunIdPath, StreamPosition, LastEventIdHeader),
    responses((status = 200, description = "The stream", body = NamedStreamEvent, content_type = "text/event-stream"), (status = 204, description = "The stream is over and everything was seen"), ForStream),
    security(("bearer" = []), ("ticket" = []))
)]
pub async fn named_form(
    State(app): State<App>,
    Spectator(principal): Spectator,
    RunPath(run): RunPath,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    open(&app, &principal, run, &headers, (&query, Form::Named)).await
}

/// Opens a stream, or answers what the cursor table says.
pub async fn open(
    app: &App,
    caller: &Principal,
    run: RunId,
    headers: &HeaderMap,
    (query, form): (&Query, Form),
) -> Result<Response, Problem> {
    let asked = match Asked::parse(headers, query) {
        // Like a wrong mode, a wrong position is told to the owner only.
        Err(problem) if problem.status != StatusCode::BAD_REQUEST => return Err(problem),
        asked => asked,
    };
    let found = app.head(caller, run).await?;
    let asked = asked?;
    let head = Head {
        last_seq: found.last_seq,
        finished: found.status.is_final(),
    };
    let not_newer = match asked.since {
        Some(since) => app.reader(caller).sequence_at(run, since).await?,
        None => 0,
    };
    match asked.open(head, not_newer) {
        Opening::Nothing => Ok(StatusCode::NO_CONTENT.into_response()),
        Opening::Ahead => Err(cursor::ahead()),
        Opening::After(seq) => {
            let place = app.quota.stream(&caller.user_id)?;
            Ok(stream(app, (run, seq), form, place).await)
        }
    }
}

async fn stream(app: &App, (run, after): (RunId, i64), form: Form, place: Place) -> Response {
    let setting = Setting {
        form,
        pace: app.pace,
        clock: app.clock.clone(),
    };
    let attached = app.tails.attach(run).await;
    let mut viewer = Viewer::new(attached, after, setting);
    // After the subscription, so that a line comes this way or live; the viewer drops what comes both ways.
    viewer.greet(thinking::fresh(app, run, form).await);
    let counted = Counted::new(place);
    let frames = viewer.into_stream().inspect(move |_| counted.touch());
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// `agent_sse_connections` and the span of the session: they last as long as the stream's body lives.
struct Counted {
    _session: tracing::Span,
    _place: Place,
}

impl Counted {
    fn new(place: Place) -> Self {
        metrics::gauge!("agent_sse_connections").increment(1.0);
        let session = tracing::trace_span!(target: "traces", "runtime.stream");
        Self {
            _session: session,
            _place: place,
        }
    }

    /// Keeps the guard inside the stream's closure.
    fn touch(&self) {
        let Self { .. } = self;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("agent_sse_connections").decrement(1.0);
    }
}
