//! The way to a browser that runs already, at its debugging address.
//!
//! Faults name no address: it often has a key in it.

use super::cdp::Cdp;
use super::wire;
use crate::http::one_line;
use outbound::{Guard, Redirects};
use reqwest::{ClientBuilder, Url};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait of a check.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// A connection to it.
pub(super) async fn reached(url: &str) -> Result<Cdp, String> {
    let socket = socket_of(url).await?;
    Ok(Cdp::over(wire::socket(&socket).await?))
}

/// What it calls itself.
pub(super) async fn version(url: &str) -> Result<String, String> {
    let asked = async {
        let cdp = reached(url).await?;
        let told = cdp.ask(None, "Browser.getVersion", json!({}), CHECK_LIMIT).await;
        let told = told.map_err(|fault| fault.to_string())?;
        Ok(one_line(told["product"].as_str().unwrap_or("a browser")))
    };
    tokio::time::timeout(CHECK_LIMIT, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", CHECK_LIMIT.as_secs())))
}

/// The address of the socket: given as such, or asked for as debugging clients do. Faults name no address.
async fn socket_of(url: &str) -> Result<String, String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    match url.scheme() {
        "ws" => return Ok(url.into()),
        "http" => {}
        other => return Err(format!("{other} is not supported: http or ws")),
    }
    let told = asked(&url).await?;
    let socket = told["webSocketDebuggerUrl"]
        .as_str()
        .and_then(|text| Url::parse(text).ok());
    let mut socket = socket.ok_or("what answers there is no browser: it told no webSocketDebuggerUrl")?;
    // It names itself as it sees itself; the way there is the operator's.
    let moved = socket.set_host(url.host_str()).is_ok() && socket.set_port(url.port()).is_ok();
    if moved && socket.scheme() == "ws" {
        Ok(socket.into())
    } else {
        Err("it told an address that is no ws address".to_owned())
    }
}

/// What a browser tells of itself.
async fn asked(url: &Url) -> Result<Value, String> {
    let about = url.join("/json/version").map_err(|error| error.to_string())?;
    let client = Guard::new(false)
        .trusting([url])
        .client(ClientBuilder::new().timeout(ASK_LIMIT), Redirects::No);
    let client = client.map_err(|error| error.to_string())?;
    let answer = client.get(about).send().await.map_err(|error| cause(&error))?;
    let status = answer.status();
    let body = outbound::read_body(answer, 64 * 1024, Instant::now() + ASK_LIMIT).await;
    let body = body.map_err(|error| error.to_string())?;
    if !status.is_success() {
        // Chromium's own words, for example of a host that is neither an address nor localhost.
        let said = one_line(&String::from_utf8_lossy(&body.bytes));
        return Err(format!("/json/version answered {}: {said}", status.as_u16()));
    }
    serde_json::from_slice(&body.bytes)
        .map_err(|error| format!("what answers there is no browser: /json/version is not JSON: {error}"))
}

/// The innermost cause: what is around it holds the address.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    format!("no connection: {inner}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_for_debugging_is_a_socket_or_is_asked_for() {
        assert_eq!(
            socket_of("ws://127.0.0.1:1/x").await.unwrap(),
            "ws://127.0.0.1:1/x"
        );
        for refused in ["wss://example.org/", "ftp://example.org/", "nonsense"] {
            assert!(socket_of(refused).await.is_err(), "{refused}");
        }
    }
}
