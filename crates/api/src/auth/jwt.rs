//! JSON Web Tokens: shape, algorithm, signature, issuer, audience, times, and the claims we read.
//!
//! Invariants: `JWT_SECRET` verifies HS256 and nothing else; a token is never checked with a key of another
//! algorithm; there is no leeway. The order of the checks is the order of [`super::Refusal`].

use super::Refusal;
use super::jwks::KeySet;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::UserId;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// Longest user id, in characters.
pub const MAX_USER_ID_CHARS: usize = 255;

/// What a token must satisfy besides its signature.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Empty: any issuer.
    pub issuers: Vec<String>,
    pub audience: Option<String>,
    pub require_exp: bool,
    pub admin_role: String,
}

/// The keys and rules of this process.
#[derive(Debug)]
pub struct Verifier {
    secret: Option<DecodingKey>,
    keys: Option<KeySet>,
    pub rules: Rules,
}

/// A token taken apart, not yet believed.
struct Parts<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// What was signed: the first two parts with their dot.
    message: &'a str,
    signature: &'a str,
}

fn object_of(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn take_apart(token: &str) -> Option<Parts<'_>> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Parts {
        header: object_of(header)?,
        claims: object_of(claims)?,
        message: &token[..header.len() + 1 + claims.len()],
        signature,
    })
}

fn signed_by(parts: &Parts<'_>, key: &DecodingKey, algorithm: Algorithm) -> Result<(), Refusal> {
    match jsonwebtoken::crypto::verify(parts.signature, parts.message.as_bytes(), key, algorithm) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Refusal::Token),
    }
}

impl Verifier {
    pub fn new(secret: Option<&str>, keys: Option<KeySet>, rules: Rules) -> Self {
        let secret = secret.map(|secret| DecodingKey::from_secret(secret.as_bytes()));
        Self { secret, keys, rules }
    }

    /// Whether any key is configured.
    pub fn configured(&self) -> bool {
        self.secret.is_some() || self.keys.is_some()
    }

    /// The claims of a sound token at this time.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Refusal> {
        let parts = take_apart(token).ok_or(Refusal::TokenFormat)?;
        self.check_signature(&parts).await?;
        let claims = Claims(parts.claims);
        self.check_parties(&claims)?;
        claims.check_times(now, self.rules.require_exp)?;
        Ok(claims)
    }

    async fn check_signature(&self, parts: &Parts<'_>) -> Result<(), Refusal> {
        // Extensions we would have to understand, and do not.
        if parts.header.contains_key("crit") {
            return Err(Refusal::Token);
        }
        let algorithm = parts.header.get("alg").and_then(Value::as_str);
        match (algorithm, &self.secret, &self.keys) {
            (Some("HS256"), Some(secret), _) => signed_by(parts, secret, Algorithm::HS256),
            (Some(name @ ("RS256" | "ES256" | "EdDSA")), _, Some(keys)) => {
                let kid = parts.header.get("kid").and_then(Value::as_str);
                let key = keys.find(kid, name).await?;
                signed_by(parts, &key.key, key.algorithm)
            }
            _ => Err(Refusal::Token),
        }
    }

    fn check_parties(&self, claims: &Claims) -> Result<(), Refusal> {
        let rules = &self.rules;
        let issuer = claims.text("iss").unwrap_or_default();
        if !rules.issuers.is_empty() && !rules.issuers.iter().any(|known| known == issuer) {
            return Err(Refusal::Token);
        }
        match &rules.audience {
            Some(audience) if !claims.lists("aud", audience) => Err(Refusal::Token),
            _ => Ok(()),
        }
    }
}

/// The claims of a verified token.
#[derive(Debug, Clone)]
pub struct Claims(Map<String, Value>);

impl Claims {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The claim is this text, or a list that holds it.
    fn lists(&self, name: &str, wanted: &str) -> bool {
        match self.0.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(wanted)),
            _ => false,
        }
    }

    fn check_times(&self, now: Timestamp, require_exp: bool) -> Result<(), Refusal> {
        let now = now.as_duration().as_secs_f64();
        match self.0.get("nbf") {
            None | Some(Value::Null) => {}
            Some(nbf) if nbf.as_f64().is_some_and(|nbf| nbf <= now) => {}
            Some(_) => return Err(Refusal::Token),
        }
        match self.0.get("exp") {
            None | Some(Value::Null) if require_exp => Err(Refusal::Token),
            None | Some(Value::Null) => Ok(()),
            Some(exp) => match exp.as_f64() {
                Some(exp) if exp > now => Ok(()),
                Some(_) => Err(Refusal::Expired),
                None => Err(Refusal::Token),
            },
        }
    }

    /// First usable of `sub`, `user_id`, `id`: text or a whole number.
    pub fn user_id(&self) -> Option<UserId> {
        let usable = |name: &&str| match self.0.get(*name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => None,
        };
        let sound = |text: &String| {
            !text.is_empty() && text.chars().count() <= MAX_USER_ID_CHARS && !text.contains('\0')
        };
        let text = ["sub", "user_id", "id"]
            .iter()
            .find_map(|name| usable(name).filter(sound))?;
        Some(UserId(text))
    }

    pub fn is_admin(&self, role: &str) -> bool {
        let app_role = self.0.get("app_metadata").and_then(|app| app.get("role"));
        self.text("role") == Some(role)
            || self.lists("roles", role)
            || app_role.and_then(Value::as_str) == Some(role)
    }

    pub fn scopes(&self) -> Vec<String> {
        let words = self.text("scope").unwrap_or_default().split_whitespace();
        words.map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::EncodingKey;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn token_with(header: &Value, claims: &Value, secret: &str) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    fn token(claims: &Value) -> String {
        token_with(&json!({"alg": "HS256", "typ": "JWT"}), claims, "secret")
    }

    async fn verdict(rules: Rules, token: &str) -> Result<Claims, Refusal> {
        let now = Timestamp::from_second(NOW).unwrap();
        Verifier::new(Some("secret"), None, rules)
            .verify(token, now)
            .await
    }

    async fn refusal(token: &str) -> Option<Refusal> {
        verdict(Rules::default(), token).await.err()
    }

    #[tokio::test]
    async fn the_refusals_come_in_the_documented_order() {
        let good = json!({"sub": "u"});
        assert_eq!(refusal("a.b").await, Some(Refusal::TokenFormat));
        assert_eq!(refusal("a.b.c.d").await, Some(Refusal::TokenFormat));
        assert_eq!(refusal("!!.e30.x").await, Some(Refusal::TokenFormat));
        let not_json = format!("{}.e30.x", URL_SAFE_NO_PAD.encode("nope"));
        assert_eq!(refusal(&not_json).await, Some(Refusal::TokenFormat));
        for alg in ["none", "None", "HS512", "RS256", "ES256"] {
            let unsigned = token_with(&json!({"alg": alg}), &good, "secret");
            assert_eq!(refusal(&unsigned).await, Some(Refusal::Token), "{alg}");
        }
        let foreign = token_with(&json!({"alg": "HS256"}), &good, "other");
        assert_eq!(refusal(&foreign).await, Some(Refusal::Token));
        let cut = token(&good);
        let cut = &cut[..=cut.rfind('.').unwrap()];
        assert_eq!(refusal(cut).await, Some(Refusal::Token));
        let both = token(&json!({"sub": "u", "nbf": NOW + 1, "exp": NOW - 1}));
        assert_eq!(refusal(&both).await, Some(Refusal::Token), "nbf before exp");
        assert_eq!(
            refusal(&token(&json!({"exp": NOW}))).await,
            Some(Refusal::Expired)
        );
        assert_eq!(refusal(&token(&json!({"exp": NOW + 1, "nbf": NOW}))).await, None);
        assert_eq!(
            refusal(&token(&json!({"exp": "soon"}))).await,
            Some(Refusal::Token)
        );
    }

    #[tokio::test]
    async fn issuers_audience_and_expiry_are_enforced_when_set() {
        let rules = Rules {
            issuers: vec!["a".into(), "b".into()],
            audience: Some("api".into()),
            require_exp: true,
            admin_role: String::new(),
        };
        let claims = |iss: &str, aud: Value| token(&json!({"iss": iss, "aud": aud, "exp": NOW + 9}));
        assert!(verdict(rules.clone(), &claims("b", json!("api"))).await.is_ok());
        assert!(
            verdict(rules.clone(), &claims("b", json!(["x", "api"])))
                .await
                .is_ok()
        );
        for wrong in [
            claims("c", json!("api")),
            claims("a", json!("apis")),
            claims("a", Value::Null),
        ] {
            assert_eq!(verdict(rules.clone(), &wrong).await.err(), Some(Refusal::Token));
        }
        let endless = token(&json!({"iss": "a", "aud": "api"}));
        assert_eq!(verdict(rules, &endless).await.err(), Some(Refusal::Token));
        assert_eq!(refusal(&token(&json!({}))).await, None, "without exp by default");
    }

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(map) => Claims(map),
            _ => panic!("an object is needed"),
        }
    }

    #[test]
    fn the_user_id_is_the_first_usable_claim() {
        let id = |value| claims(value).user_id().map(|id| id.0);
        assert_eq!(id(json!({"sub": "a", "user_id": "b"})).as_deref(), Some("a"));
        assert_eq!(id(json!({"sub": "", "user_id": 7})).as_deref(), Some("7"));
        assert_eq!(id(json!({"sub": null, "id": "c"})).as_deref(), Some("c"));
        assert_eq!(id(json!({"sub": 1.5, "user_id": true})), None);
        assert_eq!(id(json!({"sub": "x".repeat(256)})), None);
        assert_eq!(id(json!({"email": "a@b"})), None);
    }

    #[test]
    fn the_admin_role_is_read_from_three_places() {
        for yes in [
            json!({"role": "admin"}),
            json!({"roles": ["x", "admin"]}),
            json!({"app_metadata": {"role": "admin"}}),
        ] {
            assert!(claims(yes).is_admin("admin"));
        }
        assert!(!claims(json!({"role": "administrator", "admin": true})).is_admin("admin"));
        assert_eq!(claims(json!({"scope": "a internal"})).scopes(), ["a", "internal"]);
    }
}
