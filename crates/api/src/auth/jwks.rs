//! The public keys behind `JWT_JWKS_URL`: cached, fetched again when old or when a `kid` is unknown.
//!
//! One fetch at a time; a failed fetch leaves the copy in hand usable. Keys that are no RS256, ES256 or EdDSA
//! signing keys are left out, so that the algorithm is the key's and never the token's choice.

use super::Refusal;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Age at which the copy is fetched again.
const MAX_AGE: Duration = Duration::from_mins(10);
/// Least time between two fetches.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// Time for one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A usable public key.
#[derive(Debug, Clone)]
pub struct PublicKey {
    kid: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

#[derive(Debug, Default)]
struct Copy {
    keys: Vec<PublicKey>,
    fetched_at: Option<Instant>,
    tried_at: Option<Instant>,
}

impl Copy {
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<PublicKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match kid {
            Some(kid) => fitting.find(|key| key.kid.as_deref() == Some(kid)).cloned(),
            // Without a `kid` only a single fitting key is unambiguous.
            None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
        }
    }

    fn older_than(at: Option<Instant>, age: Duration) -> bool {
        at.is_none_or(|at| at.elapsed() >= age)
    }
}

/// The key set of one URL.
#[derive(Debug)]
pub struct KeySet {
    url: String,
    client: reqwest::Client,
    copy: Mutex<Copy>,
}

impl KeySet {
    pub fn new(url: String, client: reqwest::Client) -> Self {
        Self {
            url,
            client,
            copy: Mutex::default(),
        }
    }

    /// The key for this `kid` and algorithm name; fetches when that may help.
    pub async fn find(&self, kid: Option<&str>, name: &str) -> Result<PublicKey, Refusal> {
        let algorithm = match name {
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            _ => Algorithm::EdDSA,
        };
        let mut copy = self.copy.lock().await;
        let present = copy.find(kid, algorithm);
        let wanted = present.is_none() || Copy::older_than(copy.fetched_at, MAX_AGE);
        let may_fetch = copy.fetched_at.is_none() || Copy::older_than(copy.tried_at, COOL_DOWN);
        if wanted && may_fetch {
            self.refresh(&mut copy).await;
        }
        if copy.fetched_at.is_none() {
            return Err(Refusal::KeySetUnavailable);
        }
        copy.find(kid, algorithm).ok_or(Refusal::Token)
    }

    async fn refresh(&self, copy: &mut Copy) {
        copy.tried_at = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                copy.keys = keys;
                copy.fetched_at = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error.without_url()), "key set could not be fetched");
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<PublicKey>, reqwest::Error> {
        let request = self.client.get(&self.url).timeout(FETCH_TIMEOUT);
        let response = request.send().await?.error_for_status()?;
        let set: KeySetBody = response.json().await?;
        Ok(set.keys.into_iter().filter_map(usable).collect())
    }
}

/// Keys of kinds we do not know must not make the others unreadable.
#[derive(serde::Deserialize)]
struct KeySetBody {
    keys: Vec<serde_json::Value>,
}

fn usable(value: serde_json::Value) -> Option<PublicKey> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let declared = jwk.common.key_algorithm.map(|declared| declared.to_string());
    if declared.is_some_and(|declared| declared != format!("{algorithm:?}")) {
        return None;
    }
    Some(PublicKey {
        key: DecodingKey::from_jwk(&jwk).ok()?,
        kid: jwk.common.key_id,
        algorithm,
    })
}
