//! The signed header `X-OA-RUNTIME-SIGNATURE: v1.<claims>.<mac>`.
//!
//! Invariants: nothing of the claims is believed before the MAC is verified (in constant time, over the characters of the
//! claims as they were sent); the faults come in the order of [`Fault`]; a nonce is touched by nobody here.

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// How far the clock of a signer may be ahead of ours, in seconds.
const CLOCK_TOLERANCE: i64 = 30;

/// Why a signed request is refused; the first that applies wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Missing,
    /// Not three parts beginning with `v1`, bad base64, bad JSON.
    Encoding,
    /// Bytes that are no text.
    Format,
    Mac,
    Claims,
    Expired,
    FromTheFuture,
    NonceUsed,
}

impl Fault {
    pub const fn message(self) -> &'static str {
        match self {
            Self::Missing => "missing runtime signature",
            Self::Encoding => "invalid token encoding",
            Self::Format => "invalid token format",
            Self::Mac => "invalid token signature",
            Self::Claims => "invalid token claims",
            Self::Expired => "token expired",
            Self::FromTheFuture => "token issued in the future",
            Self::NonceUsed => "token nonce already used",
        }
    }

    /// The word in `runtime_auth_rejections_total`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing_signature",
            Self::Encoding => "invalid_encoding",
            Self::Format => "invalid_format",
            Self::Mac => "invalid_signature",
            Self::Claims => "invalid_claims",
            Self::Expired => "expired",
            Self::FromTheFuture => "issued_in_the_future",
            Self::NonceUsed => "nonce_used",
        }
    }
}

/// The claims of a header whose MAC and times are right.
#[derive(Debug, Clone)]
pub struct Claims {
    all: Map<String, Value>,
    exp: i64,
    nonce: String,
}

impl Claims {
    /// Verifies a header value at this time (seconds).
    pub fn verify(value: &HeaderValue, key: &DecodingKey, now: i64) -> Result<Self, Fault> {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Fault::Format)?;
        let parts: Vec<&str> = text.split('.').collect();
        let ["v1", claims, mac] = parts[..] else {
            return Err(Fault::Encoding);
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Encoding);
        let (bytes, _) = (decode(claims)?, decode(mac)?);
        let json = std::str::from_utf8(&bytes).map_err(|_| Fault::Format)?;
        let all: Value = serde_json::from_str(json).map_err(|_| Fault::Encoding)?;
        match jsonwebtoken::crypto::verify(mac, claims.as_bytes(), key, Algorithm::HS256) {
            Ok(true) => Self::read(all, now),
            Ok(false) | Err(_) => Err(Fault::Mac),
        }
    }

    fn read(all: Value, now: i64) -> Result<Self, Fault> {
        let Value::Object(all) = all else {
            return Err(Fault::Claims);
        };
        let seconds = |name: &str| all.get(name).and_then(Value::as_i64).ok_or(Fault::Claims);
        let (iat, exp) = (seconds("iat")?, seconds("exp")?);
        let nonce = all.get("nonce").and_then(Value::as_str).unwrap_or_default();
        if nonce.is_empty() {
            return Err(Fault::Claims);
        }
        if exp <= now {
            return Err(Fault::Expired);
        }
        if iat > now.saturating_add(CLOCK_TOLERANCE) {
            return Err(Fault::FromTheFuture);
        }
        if exp <= iat {
            return Err(Fault::Claims);
        }
        let nonce = nonce.to_owned();
        Ok(Self { all, exp, nonce })
    }

    /// The claim of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.all.get(name)
    }

    /// Stands for the nonce, in bounded length.
    pub fn nonce_digest(&self) -> String {
        let digest = Sha256::digest(self.nonce.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How long the nonce must be remembered: until `exp` by the slowest clock that would still accept the token.
    pub fn nonce_life(&self, now: i64) -> Duration {
        let seconds = self.exp.saturating_sub(now).saturating_add(CLOCK_TOLERANCE);
        Duration::from_secs(seconds.unsigned_abs())
    }
}

/// Signs claims as callers do; for our own smoke test.
pub fn sign(claims: &Value, secret: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let mac = jsonwebtoken::crypto::sign(claims.as_bytes(), &key, Algorithm::HS256).ok()?;
    Some(format!("v1.{claims}.{mac}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &str = "test-secret";
    const NOW: i64 = 1_790_000_100;
    const VECTOR: &str = "v1.eyJpYXQiOjE3OTAwMDAwMDAsImV4cCI6MTc5MDAwMDMwMCwibm9uY2UiOiJuLTEiLCJydW5faWQiOiIwMTk1MWQyYS02YzE1LTdjOWYtOTljMi1jZjhhZDcyYTIzZjAifQ.hippNP70Uus9zhAVDfxRM8b4r7KIEpW81PoxaI1lzFY";

    fn verify_bytes(value: &[u8]) -> Result<Claims, Fault> {
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        Claims::verify(&HeaderValue::from_bytes(value).unwrap(), &key, NOW)
    }

    fn fault(value: &str) -> Option<Fault> {
        verify_bytes(value.as_bytes()).err()
    }

    fn fault_of(claims: &Value) -> Option<Fault> {
        fault(&sign(claims, SECRET).unwrap())
    }

    #[test]
    fn the_documented_vector_is_made_and_accepted() {
        let claims = json!({"iat": 1_790_000_000, "exp": 1_790_000_300, "nonce": "n-1",
            "run_id": "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0"});
        assert_eq!(sign(&claims, SECRET).as_deref(), Some(VECTOR));
        let read = verify_bytes(VECTOR.as_bytes()).unwrap();
        assert_eq!(read.get("run_id"), claims.get("run_id"));
        assert_eq!(read.nonce_life(NOW), Duration::from_secs(200 + 30));
        let late = HeaderValue::from_static(VECTOR);
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        assert_eq!(
            Claims::verify(&late, &key, 1_790_000_300).err(),
            Some(Fault::Expired)
        );
    }

    #[test]
    fn what_is_no_token_is_told_by_its_encoding() {
        let [_, claims, mac] = VECTOR.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts")
        };
        for wrong in [
            String::new(),
            "v1".into(),
            format!("v2.{claims}.{mac}"),
            format!("v1.{claims}"),
            format!("{VECTOR}.x"),
            format!("v1.{claims}=.{mac}"),
            format!("v1.{claims}.{mac}="),
            format!("v1.{claims}.++++"),
            format!("v1.{}.{mac}", URL_SAFE_NO_PAD.encode("{no json")),
        ] {
            assert_eq!(fault(&wrong), Some(Fault::Encoding), "{wrong}");
        }
        let no_text = URL_SAFE_NO_PAD.encode([0xff, 0xfe]);
        assert_eq!(fault(&format!("v1.{no_text}.{mac}")), Some(Fault::Format));
        assert_eq!(verify_bytes(&[b'v', b'1', 0xff]).err(), Some(Fault::Format));
    }

    #[test]
    fn a_changed_token_has_a_wrong_signature_before_anything_else_is_believed() {
        let [_, _, mac] = VECTOR.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts")
        };
        let other = URL_SAFE_NO_PAD.encode(json!({"exp": 1}).to_string());
        assert_eq!(fault(&format!("v1.{other}.{mac}")), Some(Fault::Mac));
        let good = json!({"iat": NOW, "exp": NOW + 60, "nonce": "n"});
        assert_eq!(fault(&sign(&good, "other-secret").unwrap()), Some(Fault::Mac));
        assert_eq!(
            fault(&format!("{}.", &VECTOR[..VECTOR.len() - 44])),
            Some(Fault::Mac)
        );
    }

    #[test]
    fn claims_are_checked_in_their_order_to_the_second() {
        let claims = |iat: i64, exp: i64| json!({"iat": iat, "exp": exp, "nonce": "n"});
        for (claims, expected) in [
            (claims(NOW, NOW + 60), None),
            (claims(NOW + 30, NOW + 60), None),
            (claims(NOW + 31, NOW + 60), Some(Fault::FromTheFuture)),
            (claims(NOW - 60, NOW), Some(Fault::Expired)),
            (claims(NOW + 100, NOW), Some(Fault::Expired)),
            (claims(NOW + 20, NOW + 20), Some(Fault::Claims)),
            (claims(NOW + 20, NOW + 10), Some(Fault::Claims)),
            (json!({"iat": NOW, "exp": NOW + 60}), Some(Fault::Claims)),
            (
                json!({"iat": NOW, "exp": NOW + 60, "nonce": ""}),
                Some(Fault::Claims),
            ),
            (
                json!({"iat": NOW, "exp": NOW + 60, "nonce": 7}),
                Some(Fault::Claims),
            ),
            (
                json!({"iat": NOW, "exp": "9999999999", "nonce": "n"}),
                Some(Fault::Claims),
            ),
            (
                json!({"iat": NOW, "exp": 9_999_999_999.5, "nonce": "n"}),
                Some(Fault::Claims),
            ),
            (json!({"exp": NOW + 60, "nonce": "n"}), Some(Fault::Claims)),
            (json!({"exp": 1, "nonce": "n"}), Some(Fault::Claims)),
            (json!([1]), Some(Fault::Claims)),
        ] {
            assert_eq!(fault_of(&claims), expected, "{claims}");
        }
    }
}
