//! Tokens as an identity provider would sign them.

use domain::{Clock, SystemClock};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// Seconds a token is good for.
const LIFETIME_S: i64 = 3600;

/// An HS256 token with `sub` = `user_id`, `iat` now and `exp` in one hour. The members of the object
/// `extra_claims` are added over these; a member that is null removes the claim (e.g. `{"exp": null}`).
pub fn jwt(secret: &str, user_id: &str, extra_claims: Value) -> String {
    let now = SystemClock.now().as_second();
    let mut claims = json!({"sub": user_id, "iat": now, "exp": now + LIFETIME_S});
    let target = claims.as_object_mut().expect("made as an object");
    if let Value::Object(extra) = extra_claims {
        for (name, value) in extra {
            if value.is_null() {
                target.remove(&name);
            } else {
                target.insert(name, value);
            }
        }
    } else {
        assert!(extra_claims.is_null(), "extra claims must be an object or null");
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).expect("HS256 can sign")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    #[test]
    fn extra_claims_win_and_null_removes() {
        let token = jwt("secret", "u1", json!({"role": "admin", "exp": null}));
        let mut rules = Validation::new(Algorithm::HS256);
        rules.required_spec_claims.clear();
        let claims = decode::<Value>(&token, &DecodingKey::from_secret(b"secret"), &rules)
            .expect("valid")
            .claims;
        assert_eq!((&claims["sub"], &claims["role"]), (&json!("u1"), &json!("admin")));
        assert!(claims.get("exp").is_none());
        assert!(decode::<Value>(&token, &DecodingKey::from_secret(b"other"), &rules).is_err());
    }
}
