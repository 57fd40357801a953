//! Tickets: what an `EventSource`, which can send no header, opens the streams of one run with.
//!
//! A ticket is signed, not stored: `tk_` + payload + `.` + HMAC-SHA256, with a secret that all replicas read from the same
//! row. It names its run, the user who asked for it and the moment it ends, so it opens nothing that user may not see, and
//! nothing of another run. It is never logged: log lines hold no query string.

use super::{INTERNAL_SCOPE, Principal, Refusal, User};
use crate::error::Problem;
use crate::extract::{Query, RunPath};
use crate::state::App;
use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::{Clock, RunId, UserId};
use http::header::AUTHORIZATION;
use http::request::Parts;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use runs::{SigningKeys, StoreError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// What every ticket starts with.
const PREFIX: &str = "tk_";
/// The row of our secret.
const SECRET_NAME: &str = "stream_ticket";
/// End (8 bytes), run (16 bytes), flags; the user id follows.
const HEAD_BYTES: usize = 8 + 16 + 1;
/// Flag: the holder had the internal scope.
const INTERNAL: u8 = 1;

struct Pair {
    sign: EncodingKey,
    verify: DecodingKey,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Makes and checks tickets. Cheap clone.
#[derive(Debug, Clone)]
pub struct Tickets {
    keys: SigningKeys,
    clock: Arc<dyn Clock>,
    /// Life of a ticket.
    pub ttl: Duration,
    pair: Arc<OnceCell<Pair>>,
}

impl Tickets {
    pub fn new(keys: SigningKeys, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self {
            keys,
            clock,
            ttl,
            pair: Arc::default(),
        }
    }

    /// The secret is read once; a store that is away is asked again next time.
    async fn pair(&self) -> Result<&Pair, StoreError> {
        let read = async || {
            let secret = self.keys.secret(SECRET_NAME).await?;
            Ok(Pair {
                sign: EncodingKey::from_secret(&secret),
                verify: DecodingKey::from_secret(&secret),
            })
        };
        self.pair.get_or_try_init(read).await
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    /// A ticket of this caller for this run.
    pub async fn issue(&self, caller: &Principal, run: RunId) -> Result<String, Problem> {
        let ttl = i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX);
        let body = Body {
            ends_ms: self.now_ms().saturating_add(ttl),
            run,
            internal: caller.has_scope(INTERNAL_SCOPE),
            user: caller.user_id.clone(),
        };
        let message = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(body.to_bytes()));
        let pair = self.pair().await?;
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &pair.sign, Algorithm::HS256);
        let signature = signature.map_err(|error| {
            tracing::error!(error = %crate::error::chain(&error), "ticket could not be signed");
            Problem::internal()
        })?;
        Ok(format!("{message}.{signature}"))
    }

    /// Who holds this ticket, if it is sound, of this run, and not over.
    pub async fn check(&self, ticket: &str, run: RunId) -> Result<Principal, Problem> {
        let (message, signature) = ticket.rsplit_once('.').ok_or(Refusal::Ticket)?;
        let pair = self.pair().await?;
        let verified =
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &pair.verify, Algorithm::HS256);
        if !verified.unwrap_or(false) {
            return Err(Refusal::Ticket.into());
        }
        let body = message.strip_prefix(PREFIX).and_then(Body::parse);
        let body = body.filter(|body| body.run == run && self.now_ms() < body.ends_ms);
        Ok(body.ok_or(Refusal::Ticket)?.holder())
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Body {
    ends_ms: i64,
    run: RunId,
    internal: bool,
    user: UserId,
}

impl Body {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.user.0.len());
        bytes.extend(self.ends_ms.to_be_bytes());
        bytes.extend(self.run.0.as_bytes());
        bytes.push(if self.internal { INTERNAL } else { 0 });
        bytes.extend(self.user.0.as_bytes());
        bytes
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (ends, rest) = bytes.split_first_chunk::<8>()?;
        let (run, rest) = rest.split_first_chunk::<16>()?;
        let (flags, user) = rest.split_first()?;
        Some(Self {
            ends_ms: i64::from_be_bytes(*ends),
            run: RunId(Uuid::from_bytes(*run)),
            internal: *flags == INTERNAL,
            user: UserId(String::from_utf8(user.to_vec()).ok()?),
        })
    }

    /// Never an admin: a ticket opens streams and nothing else.
    fn holder(self) -> Principal {
        let scopes = if self.internal {
            vec![INTERNAL_SCOPE.to_owned()]
        } else {
            vec![]
        };
        Principal {
            user_id: self.user,
            admin: false,
            scopes,
        }
    }
}

/// A caller of a stream: by `Authorization`, or without it by `?ticket=`.
#[derive(Debug, Clone)]
pub struct Spectator(pub Principal);

impl FromRequestParts<App> for Spectator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let given = query.all("ticket");
        if parts.headers.contains_key(AUTHORIZATION) || given.is_empty() {
            let User(principal) = User::from_request_parts(parts, app).await?;
            return Ok(Self(principal));
        }
        let run = RunPath::from_request_parts(parts, app).await;
        let ([ticket], Ok(RunPath(run))) = (&given[..], run) else {
            return Err(Refusal::Ticket.into());
        };
        let principal = app.tickets.check(ticket, run).await?;
        super::admit(parts, app, &principal)?;
        Ok(Self(principal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_part_survives_its_round_trip_and_garbage_is_nothing() {
        let body = Body {
            ends_ms: 1_800_000_000_123,
            run: RunId(Uuid::max()),
            internal: true,
            user: UserId("jürg".to_owned()),
        };
        let text = URL_SAFE_NO_PAD.encode(body.to_bytes());
        assert_eq!(Body::parse(&text), Some(body.clone()));
        for garbage in ["", "AAAA", "!!", &text[..20]] {
            assert_eq!(Body::parse(garbage), None, "{garbage}");
        }
        let holder = body.holder();
        assert!(!holder.admin && holder.has_scope(INTERNAL_SCOPE));
    }
}
