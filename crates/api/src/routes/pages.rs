//! `/openapi.json`, and two pages that show it. Everything they load comes from this binary, and the content security
//! policy keeps it so.

use crate::error::Problem;
use crate::openapi;
use crate::openapi::params::AssetPath;
use crate::openapi::refusals::{Open, OpenLookup};
use axum::Extension;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, header};
use std::sync::Arc;
use utoipa_swagger_ui::Config;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const DOCS_PAGE: &str = include_str!("../../pages/docs.html");
const REDOC_PAGE: &str = include_str!("../../pages/redoc.html");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Files of our own, by name.
const ASSETS: [(&str, &str, &str); 3] = [
    ("docs.js", SCRIPT, include_str!("../../pages/docs.js")),
    ("redoc.js", SCRIPT, include_str!("../../pages/redoc.js")),
    ("page.css", STYLE, include_str!("../../pages/page.css")),
];
/// Files of Swagger UI that are served.
const SWAGGER_ASSETS: [(&str, &str); 2] = [("swagger-ui.css", STYLE), ("swagger-ui-bundle.js", SCRIPT)];

/// The document as it is sent. Cheap clone.
#[derive(Debug, Clone)]
pub struct Document(Bytes);

impl Document {
    pub fn of_version(version: &str) -> Self {
        Self(Bytes::from(openapi::document(version).to_string()))
    }
}

/// This description: OpenAPI 3.1.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "docs",
    responses((status = 200, description = "This document", body = serde_json::Value), Open)
)]
pub async fn document(Extension(Document(text)): Extension<Document>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// This description as a page to try things on.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "docs",
    tag = "docs",
    responses((status = 200, description = "A page", body = String, content_type = "text/html"), Open)
)]
pub async fn docs() -> Response {
    file(HTML, DOCS_PAGE)
}

/// This description as a page to read.
#[utoipa::path(
    get,
    path = "/redoc",
    operation_id = "redoc",
    tag = "docs",
    responses((status = 200, description = "A page", body = String, content_type = "text/html"), Open)
)]
pub async fn redoc() -> Response {
    file(HTML, REDOC_PAGE)
}

/// A file of the two pages.
#[utoipa::path(
    get,
    path = "/docs/{asset}",
    operation_id = "docs_asset",
    tag = "docs",
    params(AssetPath),
    responses(
        (status = 200, description = "A file", content((String = "text/javascript"), (String = "text/css"))),
        OpenLookup
    )
)]
pub async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    if let Some((_, kind, text)) = ASSETS.iter().find(|(own, ..)| *own == name) {
        return Ok(file(kind, *text));
    }
    let known = SWAGGER_ASSETS.iter().find(|(own, _)| *own == name);
    let (name, kind) = known.ok_or_else(Problem::not_found)?;
    match utoipa_swagger_ui::serve(name, Arc::new(Config::from("/openapi.json"))) {
        Ok(Some(found)) => Ok(file(kind, found.bytes.into_owned())),
        Ok(None) => Err(Problem::not_found()),
        Err(error) => {
            tracing::error!(error = %error, "page could not be made");
            Err(Problem::internal())
        }
    }
}

fn file(kind: &'static str, content: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
