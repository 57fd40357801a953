//! Who is asking: `Authorization: Bearer <JWT or API key>`, and nothing in the query string but a stream's [`ticket`].
//!
//! The refusals are a closed list, checked in the order of [`Refusal`]; each is a 401 with its own text and code.

pub mod jwks;
pub mod jwt;
pub mod ticket;

pub use ticket::{Spectator, Tickets};

use crate::error::Problem;
use crate::fields::Fields;
use crate::quota::Held;
use crate::state::App;
use axum::extract::FromRequestParts;
use domain::UserId;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use jwt::Claims;

/// The scope that opens `/internal/v1` to a bearer.
pub const INTERNAL_SCOPE: &str = "internal";

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user_id: UserId,
    pub admin: bool,
    /// Words of the `scope` claim; none for API keys.
    pub scopes: Vec<String>,
}

impl Principal {
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }
}

/// Why a caller is not let in; the first that applies wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    MissingHeader,
    HeaderFormat,
    ApiKey,
    TokenFormat,
    Token,
    KeySetUnavailable,
    Expired,
    NoUserId,
    /// Not in the table of tokens: only streams take tickets, and only without a token.
    Ticket,
}

impl Refusal {
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingHeader => "missing_authorization",
            Self::HeaderFormat => "invalid_authorization",
            Self::ApiKey => "invalid_api_key",
            Self::TokenFormat => "invalid_token_format",
            Self::Token => "invalid_token",
            Self::KeySetUnavailable => "authentication_failed",
            Self::Expired => "token_expired",
            Self::NoUserId => "no_user_id",
            Self::Ticket => "invalid_ticket",
        }
    }

    pub const fn detail(self) -> &'static str {
        match self {
            Self::MissingHeader => "Missing authorization header",
            Self::HeaderFormat => "Invalid authorization header format",
            Self::ApiKey => "Invalid API key",
            Self::TokenFormat => "Invalid token format",
            Self::Token => "Invalid or expired token",
            Self::KeySetUnavailable => "Authentication failed",
            Self::Expired => "Token expired",
            Self::NoUserId => "Invalid token: no user ID",
            Self::Ticket => "Invalid or expired ticket",
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::unauthorized(refusal.code(), refusal.detail())
    }
}

/// A refusal, or a store that could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("not authenticated")]
    Refused(Refusal),
    #[error("API keys could not be looked up")]
    Store(#[source] runs::StoreError),
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Refused(refusal) => refusal.into(),
            AuthError::Store(source) => source.into(),
        }
    }
}

/// The second word of `Authorization: Bearer …`.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let header = headers.get(AUTHORIZATION).ok_or(Refusal::MissingHeader)?;
    let text = header.to_str().map_err(|_| Refusal::HeaderFormat)?;
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(scheme), Some(token), None) if scheme.eq_ignore_ascii_case("bearer") => Ok(token),
        _ => Err(Refusal::HeaderFormat),
    }
}

/// Verifies JWTs by the configured keys and API keys by their stored hash.
#[derive(Debug, Clone)]
pub struct Authenticator {
    pub verifier: std::sync::Arc<jwt::Verifier>,
    pub keys: runs::ApiKeys,
    pub clock: std::sync::Arc<dyn domain::Clock>,
}

impl Authenticator {
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, AuthError> {
        let token = bearer(headers)?;
        if token.starts_with(runs::api_keys::KEY_PREFIX) {
            return self.api_key(token).await;
        }
        let claims = self.verifier.verify(token, self.clock.now()).await?;
        Ok(self.principal(&claims)?)
    }

    fn principal(&self, claims: &Claims) -> Result<Principal, Refusal> {
        Ok(Principal {
            user_id: claims.user_id().ok_or(Refusal::NoUserId)?,
            admin: claims.is_admin(&self.verifier.rules.admin_role),
            scopes: claims.scopes(),
        })
    }

    async fn api_key(&self, key: &str) -> Result<Principal, AuthError> {
        let found = self.keys.lookup(key).await.map_err(AuthError::Store)?;
        let found = found.ok_or(Refusal::ApiKey)?;
        Ok(Principal {
            admin: found.is_admin,
            user_id: found.user_id,
            scopes: vec![],
        })
    }
}

/// Takes a place among the user's requests, until the answer is made.
fn admit(parts: &Parts, app: &App, principal: &Principal) -> Result<(), Problem> {
    let place = app.quota.request(&principal.user_id)?;
    if let Some(held) = parts.extensions.get::<Held>() {
        held.keep(place);
    }
    Ok(())
}

/// A caller of a user route.
#[derive(Debug, Clone)]
pub struct User(pub Principal);

impl FromRequestParts<App> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let principal = app.auth.authenticate(&parts.headers).await?;
        admit(parts, app, &principal)?;
        Ok(Self(principal))
    }
}

/// A caller of an admin route.
#[derive(Debug, Clone)]
pub struct Admin(pub Principal);

impl FromRequestParts<App> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let User(principal) = User::from_request_parts(parts, app).await?;
        if principal.admin {
            return Ok(Self(principal));
        }
        Err(Problem::forbidden("Admin role required"))
    }
}

/// `Idempotency-Key`: 1 to 255 characters, or a fault of the header.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if (1..=255).contains(&text.chars().count()) {
        return Ok(Some(text.to_owned()));
    }
    let mut fields = Fields::of_header();
    fields.fault(
        "Idempotency-Key",
        "value_error",
        "Idempotency-Key must have 1 to 255 visible ASCII characters",
    );
    fields.finish().map(|()| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn the_header_is_two_words_of_which_the_first_is_bearer_in_any_case() {
        assert_eq!(bearer(&HeaderMap::new()), Err(Refusal::MissingHeader));
        for wrong in ["", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "token"] {
            assert_eq!(bearer(&header(wrong)), Err(Refusal::HeaderFormat), "{wrong:?}");
        }
        for right in ["Bearer abc", "bearer abc", "BEARER  abc"] {
            assert_eq!(bearer(&header(right)), Ok("abc"), "{right:?}");
        }
    }
}
