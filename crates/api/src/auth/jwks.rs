//! The public keys behind `JWT_JWKS_URL`: cached, fetched again when old or when a `kid` is unknown.
//!
//! One fetch at a time; a failed fetch leaves the copy in hand usable, and nobody who has a key waits for one. Keys that are no RS256, ES256 or EdDSA
//! signing keys are left out, so that the algorithm is the key's and never the token's choice.

use super::Refusal;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Age at which the copy is fetched again.
const MAX_AGE: Duration = Duration::from_mins(10);
/// Least time between two fetches.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// As [`COOL_DOWN`], while there is no copy at all: the set's host may be back any moment.
const EMPTY_COOL_DOWN: Duration = Duration::from_secs(1);
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

/// The key set of one URL. Cheap clone.
#[derive(Debug, Clone)]
pub struct KeySet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    client: reqwest::Client,
    copy: Mutex<Copy>,
    /// Held by whoever fetches.
    flight: tokio::sync::Mutex<()>,
    max_age: Duration,
    cool_down: Duration,
}

impl KeySet {
    pub fn new(url: String, client: reqwest::Client) -> Self {
        Self::paced(url, client, (MAX_AGE, COOL_DOWN))
    }

    fn paced(url: String, client: reqwest::Client, (max_age, cool_down): (Duration, Duration)) -> Self {
        Self(Arc::new(Inner {
            url,
            client,
            copy: Mutex::default(),
            flight: tokio::sync::Mutex::default(),
            max_age,
            cool_down,
        }))
    }

    /// The key for this `kid` and algorithm name; fetches when that may help.
    pub async fn find(&self, kid: Option<&str>, name: &str) -> Result<PublicKey, Refusal> {
        let algorithm = match name {
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            _ => Algorithm::EdDSA,
        };
        let inner = &self.0;
        let present = inner.copy().find(kid, algorithm);
        if let Some(key) = present {
            if inner.is_due(true) {
                let own = self.clone();
                tokio::spawn(async move { own.0.refresh(|_| true).await });
            }
            return Ok(key);
        }
        inner.refresh(|copy| copy.find(kid, algorithm).is_none()).await;
        let copy = inner.copy();
        if copy.fetched_at.is_none() {
            return Err(Refusal::KeySetUnavailable);
        }
        copy.find(kid, algorithm).ok_or(Refusal::Token)
    }
}

impl Inner {
    fn copy(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `aged`: only an old copy is reason enough.
    fn is_due(&self, aged: bool) -> bool {
        let copy = self.copy();
        let cool_down = if copy.fetched_at.is_none() {
            EMPTY_COOL_DOWN
        } else {
            self.cool_down
        };
        Copy::older_than(copy.tried_at, cool_down)
            && (!aged || Copy::older_than(copy.fetched_at, self.max_age))
    }

    /// Fetches if it is time and, when it is our turn, still wanted.
    async fn refresh(&self, wanted: impl Fn(&Copy) -> bool) {
        let _flight = self.flight.lock().await;
        let still_wanted = wanted(&self.copy());
        if !still_wanted || !self.is_due(false) {
            return;
        }
        self.copy().tried_at = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                let mut copy = self.copy();
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// An Ed25519 public key (RFC 8037, appendix A.2).
    fn key(kid: &str) -> serde_json::Value {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid})
    }

    /// A server of key sets: its URL, how often it was asked, and what it answers.
    async fn server() -> (String, Arc<AtomicUsize>, Arc<Mutex<Option<serde_json::Value>>>) {
        let (asked, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        let (count, given) = (asked.clone(), answer.clone());
        let router = axum::Router::new().fallback(async move || {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let answer: Option<serde_json::Value> = given.lock().unwrap().clone();
            answer.map(axum::Json).ok_or(http::StatusCode::BAD_GATEWAY)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, asked, answer)
    }

    fn keys(url: &str, max_age: Duration, cool_down: Duration) -> KeySet {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        KeySet::paced(url.to_owned(), client, (max_age, cool_down))
    }

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn many_at_once_fetch_once_and_an_unknown_kid_fetches_again_only_after_the_cool_down() {
        let (url, asked, answer) = server().await;
        *answer.lock().unwrap() = Some(json!({"keys": [key("a"), {"kty": "new kind"}]}));
        let patient = keys(&url, LONG, LONG);
        let all = (0..20).map(|_| patient.find(Some("a"), "EdDSA"));
        assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        *answer.lock().unwrap() = Some(json!({"keys": [key("b")]}));
        for _ in 0..5 {
            assert_eq!(patient.find(Some("b"), "EdDSA").await.err(), Some(Refusal::Token));
        }
        assert_eq!(
            asked.load(Ordering::SeqCst),
            1,
            "not before the cool-down is over"
        );
        let eager = keys(&url, LONG, Duration::ZERO);
        assert!(eager.find(Some("b"), "EdDSA").await.is_ok());
        *answer.lock().unwrap() = Some(json!({"keys": [key("b"), key("c")]}));
        assert!(
            eager.find(Some("c"), "EdDSA").await.is_ok(),
            "rotation is followed"
        );
    }

    #[tokio::test]
    async fn a_copy_outlives_the_server_and_without_one_nobody_is_let_in() {
        let (url, asked, answer) = server().await;
        let set = keys(&url, Duration::ZERO, Duration::ZERO);
        let none = set.find(Some("a"), "EdDSA").await.err();
        assert_eq!(none, Some(Refusal::KeySetUnavailable));
        let again = set.find(Some("a"), "EdDSA").await.err();
        assert_eq!(
            (again, asked.load(Ordering::SeqCst)),
            (Some(Refusal::KeySetUnavailable), 1)
        );
        *answer.lock().unwrap() = Some(json!({"keys": [key("a")]}));
        let fresh = keys(&url, Duration::ZERO, Duration::ZERO);
        assert!(fresh.find(Some("a"), "EdDSA").await.is_ok());
        *answer.lock().unwrap() = None;
        for _ in 0..3 {
            assert!(fresh.find(Some("a"), "EdDSA").await.is_ok(), "old, but there");
        }
        assert_eq!(fresh.find(Some("b"), "EdDSA").await.err(), Some(Refusal::Token));
    }
}
