//! The S3 endpoint.

use aws_sdk_s3::primitives::ByteStream;
use testkit::S3;

#[tokio::test]
async fn objects_survive_a_restart_and_stores_are_apart() {
    let (mut first, second) = tokio::join!(S3::start(), S3::start());
    let put = first
        .client()
        .put_object()
        .bucket(first.bucket())
        .key("a/b")
        .body(ByteStream::from_static(b"hi"));
    put.send().await.expect("put");
    first.stop().await;
    first.restart().await;
    let got = first
        .client()
        .get_object()
        .bucket(first.bucket())
        .key("a/b")
        .send()
        .await
        .expect("get");
    assert_eq!(
        got.body.collect().await.expect("body").into_bytes().as_ref(),
        b"hi"
    );
    assert!(
        second
            .client()
            .get_object()
            .bucket(second.bucket())
            .key("a/b")
            .send()
            .await
            .is_err()
    );
}
