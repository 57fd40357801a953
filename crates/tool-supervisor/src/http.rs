//! Requests to the store with presigned URLs, which never appear in a text.

use crate::install;
use crate::names::Names;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a byte in either direction.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between the tries of a request: a store that is away for some seconds is waited for.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// A request is not begun with less time than this.
const LEAST_TIME: Duration = Duration::from_millis(50);
/// Read of an error's body, for its code.
const ERROR_BYTES: u64 = 4096;

/// Until when requests may last; only ever comes nearer.
#[derive(Debug, Clone)]
pub(crate) struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    pub(crate) fn at(instant: Instant) -> Self {
        Self(Arc::new(Mutex::new(instant)))
    }

    pub(crate) fn shorten(&self, to: Instant) {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *at = to.min(*at);
    }

    fn left(&self, reserve: Duration) -> Option<Duration> {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.checked_duration_since(Instant::now() + reserve)
            .filter(|left| *left > LEAST_TIME)
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The store answered with an error that another try does not change.
    #[error("the store refused: {code} (HTTP {status})")]
    Refused { status: u16, code: String },
    /// No good answer in all tries.
    #[error("the store cannot be used: {0}")]
    Away(String),
    #[error("no time left")]
    NoTime,
    /// What was fetched is wrong, or what is to be sent cannot be read.
    #[error("{0}")]
    Content(String),
}

/// The store, as far as the order's URLs go.
#[derive(Debug)]
pub(crate) struct Store {
    agent: Agent,
    pub deadline: Deadline,
}

/// A request, and the part of the time that must be left after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub url: &'a str,
    pub reserve: Duration,
}

impl Store {
    /// `ca_pem`: authorities besides the usual ones. Those are read only for a store with TLS.
    pub(crate) fn new(deadline: Deadline, tls: bool, ca_pem: Option<&str>) -> Self {
        let roots = if tls { authorities(ca_pem) } else { vec![] };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent("agent-tool-supervisor")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .timeout_per_write(Some(SILENCE_TIMEOUT))
            .tls_config(tls)
            .build();
        Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), Names::default()),
            deadline,
        }
    }

    /// Fetches and gives the body to `read`, which starts from the beginning at each try.
    pub(crate) fn get<T>(
        &self,
        target: Target<'_>,
        mut read: impl FnMut(&mut dyn Read) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.tries(target.reserve, |left| {
            let request = self.agent.get(target.url);
            let answer = request.config().timeout_global(Some(left)).build().call();
            let mut answer = accepted(answer.map_err(fault)?)?;
            read(&mut answer.body_mut().as_reader())
        })
    }

    /// Stores `length` bytes; `body` makes them anew at each try.
    pub(crate) fn put<R: Read>(
        &self,
        target: Target<'_>,
        length: u64,
        mut body: impl FnMut() -> std::io::Result<R>,
    ) -> Result<(), StoreError> {
        self.tries(target.reserve, |left| {
            let mut body = body().map_err(|error| Fault::Final(StoreError::Content(error.to_string())))?;
            self.send(target.url, (length, &mut body), left, &[])
        })
    }

    /// One try of a PUT.
    pub(crate) fn send(
        &self,
        url: &str,
        (length, body): (u64, &mut dyn Read),
        left: Duration,
        headers: &[(&str, &str)],
    ) -> Result<(), Fault> {
        let mut request = self.agent.put(url).header("content-length", length.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut body = body.take(length);
        let request = request.config().timeout_global(Some(left)).build();
        let answer = request.send(SendBody::from_reader(&mut body));
        accepted(answer.map_err(fault)?).map(drop)
    }

    /// Tries until it works, fails for good, or there is no time.
    pub(crate) fn tries<T>(
        &self,
        reserve: Duration,
        mut once: impl FnMut(Duration) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut pauses = PAUSES.iter();
        loop {
            let left = self.deadline.left(reserve).ok_or(StoreError::NoTime)?;
            let why = match once(left) {
                Ok(done) => return Ok(done),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Again(why)) => why,
            };
            match pauses.next() {
                Some(pause) => std::thread::sleep(*pause),
                None => return Err(StoreError::Away(why)),
            }
        }
    }
}

/// How one try failed.
#[derive(Debug)]
pub(crate) enum Fault {
    Again(String),
    Final(StoreError),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Again(error.to_string())
    }
}

fn accepted(mut answer: ureq::http::Response<Body>) -> Result<ureq::http::Response<Body>, Fault> {
    let status = answer.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let mut text = vec![];
    let body = answer.body_mut().as_reader();
    if body.take(ERROR_BYTES).read_to_end(&mut text).is_err() {
        text.clear();
    }
    let code = code(&String::from_utf8_lossy(&text));
    match status {
        408 | 429 | 500 | 502 | 503 | 504 => Err(Fault::Again(format!("{code} (HTTP {status})"))),
        _ => Err(Fault::Final(StoreError::Refused { status, code })),
    }
}

/// The word in `<Code>` of an S3 error.
fn code(text: &str) -> String {
    let word = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    let word = word.map_or("error", |(word, _)| word);
    let plain = word.chars().filter(char::is_ascii_alphanumeric).take(64);
    plain.collect()
}

/// Never the error's own text where that could hold the URL.
fn fault(error: ureq::Error) -> Fault {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => Fault::Final(StoreError::Content(
            "a URL of the order cannot be used".to_owned(),
        )),
        ureq::Error::Io(error) => Fault::Again(error.to_string()),
        ureq::Error::Timeout(_) => Fault::Again("no answer in time".to_owned()),
        ureq::Error::HostNotFound => Fault::Again("its name is not known".to_owned()),
        ureq::Error::Rustls(error) => Fault::Again(error.to_string()),
        _ => Fault::Again("the answer cannot be read".to_owned()),
    }
}

fn authorities(ca_pem: Option<&str>) -> Vec<Certificate<'static>> {
    let native = rustls_native_certs::load_native_certs().certs;
    let mut all: Vec<_> = native
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    let beside = install::authorities().unwrap_or_default();
    for pem in [beside.as_slice(), ca_pem.unwrap_or_default().as_bytes()] {
        all.extend(parse_pem(pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{authorities, code};

    /// Signed by itself, its key thrown away.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBiDCCAS+gAwIBAgIUIZUHRWlpmMO51yWN0YKnOjtvVUkwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdC1hdXRob3JpdHkwIBcNMjYxMTIyMDAxMzU4WhgPMjEy
NjEwMjkwMDEzNThaMBkxFzAVBgNVBAMMDnRlc3QtYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAE8AHJND0NyDPfWBticb8YqtilmBAMAPssJcNTiMfa
HyhKf/iD6T5ZOyZruMrhY5MFD6W7S1P680PGtZ7OBVUuAqNTMFEwHQYDVR0OBBYE
FFpr2CPc+9TEXj8ybBgs7yDzG6inMB8GA1UdIwQYMBaAFFpr2CPc+9TEXj8ybBgs
7yDzG6inMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgUpEzRLCP
/Vq5Tubh5ch56uxdPy0oC5PXDIrODyGzZg8CID60QRZR27YwE8n+e85SbcjImZoe
nFl3PV1VO0nmxJYj
-----END CERTIFICATE-----
";

    #[test]
    fn authorities_of_the_order_are_trusted_beside_the_usual_ones() {
        let usual = authorities(None);
        let all = authorities(Some(&format!("{CERTIFICATE}not a certificate\n{CERTIFICATE}")));
        assert_eq!(all.len(), usual.len() + 2);
        let added = &all[usual.len()..];
        assert_eq!(added[0].der(), added[1].der());
    }

    #[test]
    fn the_code_of_an_error_is_a_plain_word() {
        let text = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>x</Message></Error>";
        assert_eq!(code(text), "SlowDown");
        assert_eq!(code("<Code>a<b>\n</Code>"), "ab");
        assert_eq!(code("not found"), "error");
    }
}
