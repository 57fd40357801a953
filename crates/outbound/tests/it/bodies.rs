use crate::setup::{client, serve};
use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::get as route;
use futures::{StreamExt as _, stream};
use outbound::{BodyError, Guard, read_body};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_body_ends_at_its_limit_of_size_or_time() {
    let endless = || async {
        let pieces = stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 1000]));
        AxumBody::from_stream(pieces)
    };
    let silent = || async {
        let one = stream::iter([Ok::<_, Infallible>("some")]);
        AxumBody::from_stream(one.chain(stream::pending()))
    };
    let router = Router::new()
        .route("/endless", route(endless))
        .route("/silent", route(silent))
        .route("/short", route(|| async { "12345" }));
    let address = serve(router).await;
    let client = client(&Guard::new(true));
    let get = |path: &str| client.get(format!("http://{address}/{path}")).send();
    let later = || Instant::now() + Duration::from_secs(5);

    let cut = read_body(get("endless").await.unwrap(), 2500, later())
        .await
        .unwrap();
    assert_eq!((cut.bytes.len(), cut.truncated), (2500, true));
    let whole = read_body(get("short").await.unwrap(), 5, later()).await.unwrap();
    assert_eq!((&whole.bytes[..], whole.truncated), (&b"12345"[..], false));
    let soon = Instant::now() + Duration::from_millis(200);
    let slow = read_body(get("silent").await.unwrap(), 2500, soon).await;
    assert!(matches!(slow, Err(BodyError::Slow)), "{slow:?}");
}
