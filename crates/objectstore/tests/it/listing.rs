use crate::setup::{BUCKET, Running, start};
use futures::StreamExt;

async fn keys(s3: &Running, prefix: &str, page: i32) -> Vec<String> {
    let pages = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix(prefix)
        .max_keys(page)
        .into_paginator()
        .send();
    let found = pages.try_collect().await.unwrap();
    found
        .iter()
        .flat_map(aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output::contents)
        .map(|object| object.key().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn lists_thousands_of_objects_page_by_page() {
    let s3 = start().await;
    let wanted: Vec<String> = (0..2500).map(|number| format!("many/{number:05}")).collect();
    let puts = futures::stream::iter(&wanted)
        .map(|key| s3.put(key, "x"))
        .buffer_unordered(32);
    puts.collect::<()>().await;
    s3.put("other", "x").await;
    assert_eq!(keys(&s3, "many/", 1000).await, wanted);
    assert_eq!(keys(&s3, "many/", 7).await.len(), 2500);
    let first = s3.client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(first.key_count(), Some(1000));
    assert_eq!(first.is_truncated(), Some(true));
    assert!(
        first
            .contents()
            .iter()
            .all(|object| object.e_tag() == Some("\"9dd4e461268c8034f5c8564e155c67a6\""))
    );
}

#[tokio::test]
async fn rolls_keys_up_at_the_delimiter_over_pages() {
    let s3 = start().await;
    for key in [
        "a",
        "b/1",
        "b/2",
        "b/c/3",
        "c",
        "d/1",
        "d\u{10FFFF}",
        "d/\u{10FFFF}\u{10FFFF}x",
    ] {
        s3.put(key, "x").await;
    }
    for page in [1, 2, 1000] {
        let pages = s3
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .delimiter("/")
            .max_keys(page)
            .into_paginator()
            .send();
        let found = pages.try_collect().await.unwrap();
        let names: Vec<&str> = found
            .iter()
            .flat_map(aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output::contents)
            .filter_map(|object| object.key())
            .collect();
        let prefixes: Vec<&str> = found
            .iter()
            .flat_map(aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output::common_prefixes)
            .filter_map(|prefix| prefix.prefix())
            .collect();
        assert_eq!(names, ["a", "c", "d\u{10FFFF}"], "page {page}");
        assert_eq!(prefixes, ["b/", "d/"], "page {page}");
    }
    let below = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("b/")
        .delimiter("/")
        .send()
        .await
        .unwrap();
    assert_eq!(below.contents().len(), 2);
    assert_eq!(below.common_prefixes()[0].prefix(), Some("b/c/"));
}

#[tokio::test]
async fn starts_behind_a_key_in_both_versions() {
    let s3 = start().await;
    for key in ["a", "b", "c"] {
        s3.put(key, "x").await;
    }
    let v2 = s3
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .start_after("a")
        .send()
        .await
        .unwrap();
    assert_eq!(
        v2.contents()
            .iter()
            .map(|object| object.key().unwrap())
            .collect::<Vec<_>>(),
        ["b", "c"]
    );
    let v1 = s3
        .client
        .list_objects()
        .bucket(BUCKET)
        .marker("a")
        .max_keys(1)
        .send()
        .await
        .unwrap();
    assert_eq!(v1.contents()[0].key(), Some("b"));
    assert_eq!((v1.is_truncated(), v1.next_marker()), (Some(true), Some("b")));
    let none = s3.client.list_objects_v2().bucket("no-such-bucket").send().await;
    assert_eq!(crate::setup::code(none), "NoSuchBucket");
}
