//! Calls to a vendor's API: its address, its limits, and what became of a call.
//!
//! Vendors' addresses are the operator's and trusted. Reading calls may be redirected within the vendor's origin; changing
//! ones are not redirected at all, for a redirected POST may arrive as a GET and look done.

use crate::options::{SetupError, Vendor};
use domain::{Clock as _, SystemClock};
use outbound::{Guard, Redirects, read_body, refusal_in};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read; a page of a hundred issues stays below.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Of a vendor's own words in an error.
const MAX_MESSAGE: usize = 500;
/// How the programs here call themselves; GitHub refuses requests without a name.
pub(crate) const USER_AGENT: &str = concat!("agent-worker/", env!("CARGO_PKG_VERSION"));

/// A vendor's API.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) vendor: Vendor,
    reading: Client,
    changing: Client,
    limit: Duration,
}

/// What a vendor answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Null when the body is not JSON.
    pub(crate) json: Value,
    /// The body was longer than what is read.
    pub(crate) truncated: bool,
    /// When to ask again, if the vendor says so.
    pub(crate) wait: Option<u64>,
    text: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nothing was sent.
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
}

impl NoAnswer {
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::NotSent(text) | Self::Lost(text) => text,
        }
    }
}

impl Api {
    pub(crate) fn new(vendor: Vendor, limit: Duration) -> Result<Self, SetupError> {
        let guard = Guard::new(false).trusting([&vendor.base]);
        let builder = || {
            Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_LIMIT)
                .timeout(limit)
        };
        Ok(Self {
            reading: guard.client(builder(), Redirects::SameOrigin)?,
            changing: guard.client(builder(), Redirects::No)?,
            vendor,
            limit,
        })
    }

    /// The vendor's key, for a header.
    pub(crate) fn key(&self) -> &str {
        self.vendor
            .key
            .as_ref()
            .map_or("", |key| key.expose_secret().trim())
    }

    /// A request that changes nothing, whatever its method.
    pub(crate) fn read(&self, method: Method, url: Url) -> RequestBuilder {
        self.reading.request(method, url)
    }

    pub(crate) fn change(&self, url: Url) -> RequestBuilder {
        self.changing.post(url)
    }

    /// The address of an endpoint. What the base has of it already is not repeated, so that an operator may give the host or
    /// the whole address.
    pub(crate) fn url<'a>(&self, endpoint: impl IntoIterator<Item = &'a str>) -> Url {
        let endpoint: Vec<&str> = endpoint.into_iter().collect();
        let mut url = self.vendor.base.clone();
        let path = url.path().to_owned();
        let base: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let shared = (0..=base.len().min(endpoint.len()))
            .rev()
            .find(|count| base.get(base.len() - count..) == endpoint.get(..*count))
            .unwrap_or_default();
        // Fails only for addresses without a host, which the settings refuse.
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(endpoint.iter().skip(shared));
        }
        url
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Answer, NoAnswer> {
        let until = Instant::now() + self.limit;
        let response = request.send().await.map_err(|error| self.no_answer(error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_body(response, MAX_ANSWER, until)
            .await
            .map_err(|error| NoAnswer::Lost(format!("no whole answer from {}: {error}", self.vendor.name)))?;
        Ok(Answer {
            status,
            json: serde_json::from_slice(&body.bytes).unwrap_or_default(),
            truncated: body.truncated,
            wait: wait(&headers),
            text: String::from_utf8_lossy(&body.bytes).into_owned(),
        })
    }

    /// Without a connection, or refused before one, nothing was sent.
    fn no_answer(&self, error: reqwest::Error) -> NoAnswer {
        let name = self.vendor.name;
        if let Some(refused) = refusal_in(&error) {
            return NoAnswer::NotSent(format!("no answer from {name}: {refused}"));
        }
        if error.is_connect() || error.is_builder() {
            return NoAnswer::NotSent(format!("no connection to {name}"));
        }
        let why = if error.is_timeout() {
            format!("nothing came within {} s", self.limit.as_secs())
        } else {
            "the connection broke".to_owned()
        };
        NoAnswer::Lost(format!("no answer from {name}: {why}"))
    }
}

impl Answer {
    /// The vendor's refusal in one line: status, its own words, and when to try again.
    pub(crate) fn refusal(&self, vendor: &str, message: Option<&str>) -> String {
        let said = message.unwrap_or(self.text.trim());
        let said = one_line(said);
        let mut line = format!("{vendor} answered {}", self.status.as_u16());
        if !said.is_empty() {
            line = format!("{line}: {said}");
        }
        match self.wait {
            Some(seconds) => format!("{line} (try again in {seconds} s)"),
            None => line,
        }
    }

    /// Whether the vendor itself looked at what was asked: a refusal for want of a key, of patience or of health is none.
    pub(crate) fn was_judged(&self) -> bool {
        let of_access = [401, 403, 408, 429].contains(&self.status.as_u16());
        !of_access && !self.status.is_server_error()
    }
}

/// With these behind the `?`.
pub(crate) fn with_query<'a>(mut url: Url, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Url {
    let mut pairs = pairs.into_iter().peekable();
    if pairs.peek().is_some() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    url
}

/// `Retry-After` in seconds, or GitHub's moment of a new quota when this one is used up.
fn wait(headers: &HeaderMap) -> Option<u64> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(seconds) = number(RETRY_AFTER.as_str()) {
        return Some(seconds);
    }
    if number("x-ratelimit-remaining") != Some(0) {
        return None;
    }
    let now = u64::try_from(SystemClock.now().as_second()).ok()?;
    number("x-ratelimit-reset")?.checked_sub(now)
}

/// Foreign words in an error: one line, not too long, nothing that moves a cursor.
pub(crate) fn one_line(text: &str) -> String {
    let flat: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_MESSAGE)
        .collect();
    flat.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(base: &str) -> Api {
        let vendor = Vendor {
            name: "vendor",
            base: Url::parse(base).unwrap(),
            key: None,
        };
        Api::new(vendor, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn an_endpoint_is_put_behind_what_the_base_has_of_it() {
        let endpoint = ["res", "v1", "web", "search"];
        for (base, url) in [
            ("http://h", "http://h/res/v1/web/search"),
            ("http://h/", "http://h/res/v1/web/search"),
            ("http://h/res/v1", "http://h/res/v1/web/search"),
            ("http://h/res/v1/", "http://h/res/v1/web/search"),
            ("http://h/res/v1/web/search", "http://h/res/v1/web/search"),
            ("http://h/proxy/brave", "http://h/proxy/brave/res/v1/web/search"),
        ] {
            assert_eq!(api(base).url(endpoint).as_str(), url, "{base}");
        }
        // What stands in a segment stays one.
        let tricky = api("http://h").url(["repos", "a/../..", "b?c#d"]);
        assert_eq!(tricky.as_str(), "http://h/repos/a%2F..%2F../b%3Fc%23d");
    }

    #[test]
    fn foreign_words_are_one_short_line() {
        assert_eq!(one_line("a\n\u{1b}[31mb\r\n  c"), "a [31mb c");
        assert_eq!(one_line(&"x".repeat(10_000)).len(), MAX_MESSAGE);
    }
}
