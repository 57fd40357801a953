//! Tokens for the API of a system whose secret we hold.

use crate::failure::Failure;
use domain::Clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

/// Whom a token speaks for.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    pub user: &'a str,
    pub admin: bool,
    /// Lifetime in seconds; `None` never ends.
    pub expires_in: Option<u32>,
}

/// An HS256 token. Without a lifetime the same claims give the same token.
pub fn sign(secret: &str, claims: Claims<'_>, clock: &dyn Clock) -> Result<String, Failure> {
    let mut body = json!({"sub": claims.user});
    if claims.admin {
        body["role"] = json!("admin");
    }
    if let Some(seconds) = claims.expires_in {
        let now = clock.now().as_second();
        body["iat"] = json!(now);
        body["exp"] = json!(now + i64::from(seconds));
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), &body, &key)
        .map_err(|error| Failure::new("cannot sign a token").why(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::ManualClock;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    #[test]
    fn the_ready_token_is_the_same_at_every_start_and_verifies() {
        let clock = ManualClock::at(jiff::Timestamp::UNIX_EPOCH);
        let claims = Claims {
            user: "dev",
            admin: false,
            expires_in: None,
        };
        let token = sign("s3cret", claims, &clock).unwrap();
        clock.advance(jiff::SignedDuration::from_secs(100));
        assert_eq!(sign("s3cret", claims, &clock).unwrap(), token);
        let mut rules = Validation::new(Algorithm::HS256);
        rules.required_spec_claims.clear();
        let key = DecodingKey::from_secret(b"s3cret");
        let read = decode::<serde_json::Value>(&token, &key, &rules).unwrap();
        assert_eq!(read.claims, serde_json::json!({"sub": "dev"}));
    }
}
