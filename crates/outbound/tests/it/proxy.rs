use crate::setup::serve;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get as route, post};
use outbound::{Guard, GuardedProxy};
use reqwest::{Client, Proxy, Url};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn pages() -> Url {
    let seen = |headers: HeaderMap| async move {
        let leaked = headers.contains_key("proxy-authorization")
            || headers.contains_key("x-hop")
            || headers.contains_key("transfer-encoding");
        format!("leaked={leaked} host={}", headers["host"].to_str().unwrap())
    };
    let router = Router::new()
        .route("/", route(seen))
        .route("/echo", post(|body: String| async move { body }))
        .route("/teapot", route(|| async { (StatusCode::IM_A_TEAPOT, "short") }));
    Url::parse(&format!("http://{}/", serve(router).await)).unwrap()
}

#[tokio::test]
async fn plain_http_is_forwarded_with_its_body_and_without_headers_of_the_connection() {
    let base = pages().await;
    let proxy = GuardedProxy::start(Guard::new(false).trusting([&base]))
        .await
        .unwrap();
    let through = Client::builder()
        .proxy(Proxy::http(format!("http://{}", proxy.address())).unwrap())
        .build()
        .unwrap();
    let request = through
        .get(base.clone())
        .header("proxy-authorization", "Basic eA==")
        .header("connection", "x-hop")
        .header("x-hop", "1");
    let text = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(
        text,
        format!("leaked=false host=127.0.0.1:{}", base.port().unwrap())
    );
    let large = "x".repeat(300_000);
    let echoed = through.post(base.join("echo").unwrap()).body(large.clone());
    assert_eq!(echoed.send().await.unwrap().text().await.unwrap(), large);
    let teapot = through.get(base.join("teapot").unwrap()).send().await.unwrap();
    assert_eq!(teapot.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(proxy.refused(), 0);
}

#[tokio::test]
async fn a_tunnel_reaches_what_is_allowed_and_ends_with_the_proxy() {
    let base = pages().await;
    let target = format!("127.0.0.1:{}", base.port().unwrap());
    let proxy = GuardedProxy::start(Guard::new(false).trusting([&base]))
        .await
        .unwrap();
    let mut tunnel = TcpStream::connect(proxy.address()).await.unwrap();
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    tunnel.write_all(connect.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tunnel.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    tunnel
        .write_all(b"GET /teapot HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    tunnel.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 418");
    drop(proxy);
    let mut rest = Vec::new();
    // Ends, cleanly or not; without the end of the proxy this would wait for ever.
    drop(tunnel.read_to_end(&mut rest).await);
}
