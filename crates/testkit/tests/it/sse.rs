//! The event-stream client against a server that writes its bytes by hand.

use std::time::Duration;

use testkit::Sse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(10);

/// Answers one request with these bytes and gives the request.
async fn serve(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}/logs", listener.local_addr().expect("bound"));
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a request"));
        }
        stream.write_all(answer.as_bytes()).await.expect("write");
        String::from_utf8(request).expect("UTF-8").to_lowercase()
    });
    (url, request)
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_run_is_collected_up_to_its_last_event() {
    let answer: &str = Box::leak(
        format!("{HEAD}retry: 2000\n\ndata: {{\"type\":\"connected\"}}\n\n: keep-alive\n\nid: 1\ndata: {{\"type\":\"complete\"}}\n\n")
            .into_boxed_str(),
    );
    let (url, request) = serve(answer).await;
    let stream = Sse::connect(&url, Some("tok"), Some(0)).await;
    let frames = stream.collect_until_complete(SOON).await;
    assert_eq!(
        frames.iter().map(|frame| frame.id).collect::<Vec<_>>(),
        [None, Some(1)]
    );
    let request = request.await.expect("served");
    assert!(request.contains("authorization: bearer tok\r\n") && request.contains("last-event-id: 0\r\n"));
}

#[tokio::test]
async fn comments_and_retry_are_kept_apart_and_the_end_is_told() {
    let answer: &str =
        Box::leak(format!("{HEAD}retry: 2000\n\n: hi\n\nid: 1\ndata: x\n\ndata: cu").into_boxed_str());
    let (url, _request) = serve(answer).await;
    let mut stream = Sse::connect(&url, None, None).await;
    assert_eq!(stream.next(SOON).await.expect("a frame").data, "x");
    assert_eq!(
        (stream.retries(), stream.comments()),
        ([2000].as_slice(), ["hi".to_owned()].as_slice())
    );
    assert_eq!(stream.next(SOON).await, None);
}

#[tokio::test]
async fn a_refusal_is_given_back() {
    let (url, _request) = serve("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
    let answer = Sse::try_connect(&url, None, Some(9))
        .await
        .expect_err("no stream");
    assert_eq!(answer.status(), 204);
}
