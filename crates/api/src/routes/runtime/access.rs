//! Who may use `/internal/v1`: a bearer with scope `internal`; without any key configured, loopback only.

use super::Runtime;
use super::refusal::Refusal;
use crate::auth::{AuthError, Authenticator, INTERNAL_SCOPE, Refusal as AuthRefusal};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use std::net::SocketAddr;

/// What comes before every check.
const PREFIX: &str = "/internal/v1";
/// Needs no authentication.
const HEALTH: &str = "/internal/v1/health";

/// How callers are let in.
#[derive(Debug)]
pub enum Access {
    Bearer(Authenticator),
    /// No key is configured and the listener is on loopback.
    Open,
    /// No key is configured and the listener can be reached from elsewhere.
    Closed,
}

impl Access {
    /// `bound` is the address listened on.
    pub fn new(auth: Authenticator, bound: SocketAddr) -> Self {
        if auth.verifier.configured() {
            Self::Bearer(auth)
        } else if bound.ip().is_loopback() {
            Self::Open
        } else {
            Self::Closed
        }
    }

    /// Says aloud what an operator should not overlook.
    pub fn announce(&self) {
        match self {
            Self::Bearer(_) => {}
            Self::Open => tracing::warn!("internal routes are open on loopback only"),
            Self::Closed => tracing::error!("internal routes are closed: no authentication configured"),
        }
    }

    /// The word in the first log line of the listener.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "bearer",
            Self::Open | Self::Closed => "none",
        }
    }

    async fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Self::Open => Ok(()),
            Self::Closed => Err(Refusal::unauthorized(
                "no authentication is configured for this bind address",
            )),
            Self::Bearer(auth) => match auth.authenticate(headers).await {
                Ok(principal) if principal.has_scope(INTERNAL_SCOPE) => Ok(()),
                Ok(_) => Err(Refusal::forbidden("scope internal is required")),
                Err(error) => Err(refused(error)),
            },
        }
    }
}

fn refused(error: AuthError) -> Refusal {
    match error {
        AuthError::Refused(refusal) => {
            count(refusal);
            Refusal::unauthorized(refusal.detail())
        }
        AuthError::Store(_) => Refusal::unavailable(),
    }
}

fn count(refusal: AuthRefusal) {
    metrics::counter!("runtime_auth_rejections_total", "reason" => refusal.code()).increment(1);
}

/// The middleware.
pub async fn guard(State(runtime): State<Runtime>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with(PREFIX) || path == HEALTH {
        return next.run(request).await;
    }
    match runtime.access.check(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}
