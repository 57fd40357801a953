//! Tokens signed with public-key algorithms, verified by a key set that a real server serves.

use crate::errors::problem;
use crate::harness::{Api, SECRET};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::jwt;
use tokio::net::TcpListener;

/// A key pair of an identity provider.
struct Pair {
    algorithm: Algorithm,
    kid: &'static str,
    key: EncodingKey,
}

fn pem(der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n").into_bytes()
}

impl Pair {
    fn rsa(kid: &'static str) -> Self {
        let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let key = EncodingKey::from_rsa_pem(&pem(der.as_ref())).unwrap();
        Self {
            algorithm: Algorithm::RS256,
            kid,
            key,
        }
    }

    fn ec(kid: &'static str) -> Self {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let key = EncodingKey::from_ec_pem(&pem(der.unwrap().as_ref())).unwrap();
        Self {
            algorithm: Algorithm::ES256,
            kid,
            key,
        }
    }

    fn ed(kid: &'static str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let key = EncodingKey::from_ed_pem(&pem(der.as_ref())).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            kid,
            key,
        }
    }

    fn public(&self) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &self.key).unwrap()
    }
}

/// Serves these keys; how often it was asked.
async fn serve(keys: Vec<Value>) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let router = axum::Router::new().fallback(async move || {
        count.fetch_add(1, Ordering::SeqCst);
        axum::Json(json!({"keys": keys}))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

/// `ok`, or the code of the refusal.
async fn verdict(api: &Api, token: &str) -> String {
    let url = format!("{}/agent/execute", api.base);
    let request = api
        .client
        .post(url)
        .bearer_auth(token)
        .body(r#"{"action":"list"}"#);
    let answer = request.send().await.unwrap();
    if answer.status() == 200 {
        return "ok".to_owned();
    }
    problem(answer).await.1
}

#[tokio::test]
async fn keys_of_the_set_are_accepted_by_their_own_algorithm_and_fetched_once() {
    let pairs = [Pair::rsa("r"), Pair::ec("e"), Pair::ed("d")];
    let (url, asked) = serve(pairs.iter().map(Pair::public).collect()).await;
    let api = Api::start_with(&[
        ("JWT_SECRET", ""),
        ("JWT_JWKS_URL", &url),
        ("NO_PROXY", "127.0.0.1"),
    ])
    .await;
    let claims = json!({"sub": "u"});
    for pair in &pairs {
        assert_eq!(
            verdict(&api, &pair.token(&claims)).await,
            "ok",
            "{:?}",
            pair.algorithm
        );
        let expired = pair.token(&json!({"sub": "u", "exp": 1}));
        assert_eq!(verdict(&api, &expired).await, "token_expired");
    }
    let stranger = Pair::ed("unknown").token(&claims);
    let impostor = Pair::rsa("r").token(&claims);
    let public = pairs[0].public().to_string();
    for forged in [
        &stranger,
        &impostor,
        &jwt(&public, "u", json!({})),
        &jwt(SECRET, "u", json!({})),
    ] {
        assert_eq!(verdict(&api, forged).await, "invalid_token");
    }
    assert_eq!(
        asked.load(Ordering::SeqCst),
        1,
        "an unknown kid asks again after 30 s at the earliest"
    );
}

#[tokio::test]
async fn without_a_key_set_authentication_fails_and_the_secret_still_works() {
    let gone = format!("http://127.0.0.1:{}/jwks.json", testkit::free_port());
    let api = Api::start_with(&[("JWT_JWKS_URL", &gone), ("NO_PROXY", "127.0.0.1")]).await;
    let token = Pair::ec("e").token(&json!({"sub": "u"}));
    assert_eq!(verdict(&api, &token).await, "authentication_failed");
    assert_eq!(verdict(&api, &jwt(SECRET, "u", json!({}))).await, "ok");
}
