//! How routes refuse, by kind of route. The body is always a [`Problem`]; its codes are a closed list.

use super::operator::Problem;
use crate::error::PROBLEM_JSON;
use http::StatusCode;
use std::collections::BTreeMap;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// What each status means here.
const MEANINGS: [(u16, &str); 12] = [
    (400, "The request cannot be carried out as it is: see `code`"),
    (401, "Not authenticated"),
    (402, "`insufficient_credits`: no credits are left"),
    (403, "`forbidden`: for admins only"),
    (404, "There is no such thing, or it is somebody else's"),
    (409, "In conflict with what is stored: see `code`"),
    (
        410,
        "`files_expired`: the files were deleted by retention; `artifact_replaced`: a later step wrote the file again",
    ),
    (413, "`payload_too_large`: the body is too large"),
    (
        422,
        "`validation_error`: the shape of the request is wrong; `errors` lists every fault",
    ),
    (429, "`rate_limited`: too many requests or streams of this user"),
    (500, "`internal_error`"),
    (503, "`unavailable`: try again later"),
];

fn refusals(statuses: &[u16]) -> BTreeMap<String, RefOr<Response>> {
    let pairs = statuses
        .iter()
        .map(|status| (status.to_string(), refusal(*status).into()));
    pairs.collect()
}

fn refusal(status: u16) -> Response {
    let meaning = MEANINGS.iter().find(|(known, _)| *known == status);
    let title = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let meaning = meaning.map(|(_, meaning)| *meaning).or(title).unwrap_or_default();
    let schema = Ref::from_schema_name(Problem::name());
    let response = ResponseBuilder::new()
        .description(meaning)
        .content(PROBLEM_JSON, ContentBuilder::new().schema(Some(schema)).build());
    let header = |kind: Type, about: &str| {
        let schema = ObjectBuilder::new().schema_type(kind);
        HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(about))
            .build()
    };
    match status {
        401 => response.header("WWW-Authenticate", header(Type::String, "`Bearer`")),
        429 | 503 => response.header("Retry-After", header(Type::Integer, "Seconds to wait")),
        _ => response,
    }
    .build()
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $($status:literal)*;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    refusals(&[$($status),*])
                }
            }
        )*
    };
}

kinds! {
    /// Of routes for everybody.
    Open: 500 503;
    /// Of routes for everybody that name one of several things.
    OpenLookup: 404 500 503;
    /// Of `/ready`, which answers 503 in a form of its own.
    Readiness: 500;
    /// Of routes that read a run.
    ForRun: 401 404 429 500 503;
    /// As [`ForRun`], with a query.
    ForRunWithQuery: 401 404 422 429 500 503;
    /// Of routes that give a run's files.
    ForFiles: 401 404 409 410 422 429 500 503;
    /// Of the route that gives one file.
    ForFile: 400 401 404 409 410 422 429 500 503;
    /// Of the route that gives one artifact.
    ForArtifact: 400 401 404 409 410 422 429 500 503;
    /// Of streams, and of routes that may become one.
    ForStream: 400 401 404 422 429 500 503;
    /// Of `/agent/status`.
    ForStatus: 400 401 404 413 422 429 500 503;
    /// Of `/agent/execute`.
    ForExecute: 400 401 402 404 409 413 422 429 500 503;
    /// Of settling an effect.
    ForSettling: 400 401 404 409 413 422 429 500 503;
    /// Of routes for admins.
    ForAdmin: 401 403 429 500 503;
}
