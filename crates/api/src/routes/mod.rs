//! The routes of the public surface, one module per resource.

pub mod artifacts;
pub mod budget;
pub mod debug;
pub mod effects;
pub mod events;
pub mod execute;
pub mod files;
pub mod health;
pub mod interrupts;
pub mod list;
pub mod logs;
pub mod pages;
mod rules;
pub mod runtime;
mod servers;
pub mod status;
pub mod stream;
pub mod thinking;
pub mod ticket;
mod too_early;

use crate::edge::{self, Edge};
use crate::error::Problem;
use crate::openapi;
use crate::state::App;
use axum::{Extension, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Every route with its description; there is no other way to add one.
pub fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(health::health))
        .routes(routes!(health::healthz))
        .routes(routes!(health::ready))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(pages::document))
        .routes(routes!(pages::docs))
        .routes(routes!(pages::redoc))
        .routes(routes!(pages::asset))
        .routes(routes!(execute::execute))
        .routes(routes!(status::status))
        .routes(routes!(logs::logs))
        .routes(routes!(stream::default_form))
        .routes(routes!(stream::named_form))
        .routes(routes!(events::events))
        .routes(routes!(thinking::think))
        .routes(routes!(ticket::issue))
        .routes(routes!(status::one))
        .routes(routes!(effects::list))
        .routes(routes!(effects::settle))
        .routes(routes!(budget::show))
        .routes(routes!(budget::change))
        .routes(routes!(interrupts::list))
        .routes(routes!(interrupts::decide))
        .routes(routes!(files::list))
        .routes(routes!(files::archive))
        .routes(routes!(files::one))
        .routes(routes!(artifacts::list))
        .routes(routes!(artifacts::one))
        .routes(routes!(debug::worker_status))
}

/// The public surface with its edge.
pub fn public(app: App, edge: Edge) -> Router {
    let document = pages::Document::of_version(&app.health.version);
    Router::from(described())
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(Extension(document))
        .layer(axum::middleware::from_fn_with_state(edge, edge::handle))
        .with_state(app)
}
