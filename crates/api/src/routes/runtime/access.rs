//! Who may use `/internal/v1`: a signed request, or a bearer with scope `internal`; without any key configured, loopback
//! only.
//!
//! Authentication comes before every other check. A signature covers ids in the body, so a signed request's body is read
//! here, at most `RUNTIME_MAX_BODY_BYTES` of it and only once the header itself is good. A longer body is refused as too
//! large there and then: its ids cannot be compared, so the request is not let in, and its nonce is not used up. A caller
//! without a good signature never learns how long a body may be.

use super::Runtime;
use super::body;
use super::carried::Carried;
use super::refusal::Refusal;
use super::signature::{Claims, Fault};
use crate::auth::{AuthError, Authenticator, INTERNAL_SCOPE};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jsonwebtoken::DecodingKey;
use queue::Nonces;
use std::net::SocketAddr;

/// What comes before every check.
const PREFIX: &str = "/internal/v1";
/// Needs no authentication.
const HEALTH: &str = "/internal/v1/health";
pub const SIGNATURE: HeaderName = HeaderName::from_static("x-oa-runtime-signature");

/// What signed requests are checked with.
pub struct Signed {
    key: DecodingKey,
    nonces: Nonces,
}

impl Signed {
    pub fn new(secret: &str, nonces: Nonces) -> Self {
        let key = DecodingKey::from_secret(secret.as_bytes());
        Self { key, nonces }
    }
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signed").finish_non_exhaustive()
    }
}

/// How callers are let in.
#[derive(Debug)]
pub struct Access {
    auth: Authenticator,
    signed: Option<Signed>,
    /// A key of tokens is configured.
    bearer: bool,
    /// The listener can be reached from this machine alone.
    loopback: bool,
}

/// What a request shows of itself.
enum Shown<'a> {
    Signature(&'a Signed, Option<HeaderValue>),
    Bearer,
    Nothing,
}

impl Access {
    /// `bound` is the address listened on.
    pub fn new(auth: Authenticator, signed: Option<Signed>, bound: SocketAddr) -> Self {
        Self {
            bearer: auth.verifier.configured(),
            auth,
            signed,
            loopback: bound.ip().is_loopback(),
        }
    }

    /// Says aloud what an operator should not overlook.
    pub fn announce(&self) {
        if self.signed.is_some() || self.bearer {
            return;
        }
        if self.loopback {
            tracing::warn!("internal routes are open on loopback only");
        } else {
            tracing::error!("internal routes are closed: no authentication configured");
        }
    }

    /// The word in the first log line of the listener.
    pub fn word(&self) -> &'static str {
        match (self.signed.is_some(), self.bearer) {
            (true, true) => "signature+bearer",
            (true, false) => "signature",
            (false, true) => "bearer",
            (false, false) => "none",
        }
    }

    /// The signature decides when there is one; without any header the signature is what is missed.
    fn shown(&self, headers: &HeaderMap) -> Shown<'_> {
        let mut values = headers.get_all(SIGNATURE).iter();
        match (&self.signed, values.next(), values.next()) {
            // Which of two would count is nobody's guess.
            (Some(signed), Some(_), Some(_)) => Shown::Signature(signed, Some(HeaderValue::from_static(""))),
            (Some(signed), Some(value), None) => Shown::Signature(signed, Some(value.clone())),
            (Some(_), None, _) if self.bearer && headers.contains_key(AUTHORIZATION) => Shown::Bearer,
            (Some(signed), None, _) => Shown::Signature(signed, None),
            (None, ..) if self.bearer => Shown::Bearer,
            (None, ..) => Shown::Nothing,
        }
    }

    /// The request as its handler is to see it.
    async fn admit(&self, request: Request, max_body_bytes: usize) -> Result<Request, Refusal> {
        match self.shown(request.headers()) {
            Shown::Signature(signed, value) => {
                let value = value.ok_or_else(|| refused(Fault::Missing))?;
                self.signed_request(signed, &value, request, max_body_bytes).await
            }
            Shown::Bearer => self.check_bearer(request.headers()).await.map(|()| request),
            Shown::Nothing if self.loopback => Ok(request),
            Shown::Nothing => {
                count("not_configured");
                let message = "no authentication is configured for this bind address";
                Err(Refusal::unauthorized(message))
            }
        }
    }

    async fn signed_request(
        &self,
        signed: &Signed,
        value: &HeaderValue,
        request: Request,
        max_body_bytes: usize,
    ) -> Result<Request, Refusal> {
        let now = self.auth.clock.now().as_second();
        let claims = Claims::verify(value, &signed.key, now).map_err(refused)?;
        let (mut parts, body) = request.into_parts();
        let bytes = body::read(body, max_body_bytes).await?;
        if let Some(claim) = Carried::of(&mut parts, &bytes).await.differs_from(&claims) {
            count("claim_mismatch");
            return Err(Refusal::forbidden(format!("claim mismatch for {claim}")));
        }
        let life = claims.nonce_life(now);
        match signed.nonces.use_up(&claims.nonce_digest(), life).await {
            Ok(true) => Ok(Request::from_parts(parts, Body::from(bytes))),
            Ok(false) => Err(refused(Fault::NonceUsed)),
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "nonces cannot be looked up");
                Err(Refusal::replay_guard_unavailable())
            }
        }
    }

    async fn check_bearer(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.auth.authenticate(headers).await {
            Ok(principal) if principal.has_scope(INTERNAL_SCOPE) => Ok(()),
            Ok(_) => {
                count("missing_scope");
                Err(Refusal::forbidden("scope internal is required"))
            }
            Err(AuthError::Refused(refusal)) => {
                count(refusal.code());
                Err(Refusal::unauthorized(refusal.detail()))
            }
            Err(AuthError::Store(_)) => Err(Refusal::unavailable()),
        }
    }
}

fn refused(fault: Fault) -> Refusal {
    count(fault.reason());
    Refusal::unauthorized(fault.message())
}

fn count(reason: &'static str) {
    metrics::counter!("runtime_auth_rejections_total", "reason" => reason).increment(1);
}

/// The middleware: authentication, then the write mode, then a store that was never there yet.
pub async fn guard(State(runtime): State<Runtime>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let rest = path.strip_prefix(PREFIX);
    let inside = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let health = path == HEALTH && matches!(*request.method(), Method::GET | Method::HEAD);
    if !inside || health {
        return next.run(request).await;
    }
    let frozen = (request.method() == Method::POST && !runtime.write_mode.may_write())
        .then(|| Refusal::frozen(runtime.write_mode));
    let admitted = runtime.access.admit(request, runtime.max_body_bytes).await;
    let request = match (admitted, frozen) {
        (Ok(request), None) => request,
        (Ok(_), Some(frozen)) => return frozen.into_response(),
        // A frozen authority does not look at bodies, beyond what a signature asks for.
        (Err(refusal), Some(frozen)) if refusal.status == StatusCode::PAYLOAD_TOO_LARGE => {
            return frozen.into_response();
        }
        (Err(refusal), _) => return refusal.into_response(),
    };
    if !runtime.health.store_came_up() {
        return Refusal::unavailable().into_response();
    }
    next.run(request).await
}
