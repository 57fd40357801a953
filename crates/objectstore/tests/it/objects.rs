use crate::setup::{BUCKET, client, code, get, start};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use std::time::Duration;

#[tokio::test]
async fn gives_back_what_was_put_with_its_headers() {
    let s3 = start().await;
    s3.client
        .put_object()
        .bucket(BUCKET)
        .key("a.txt")
        .body(ByteStream::from_static("grüezi".as_bytes()))
        .content_type("text/plain; charset=utf-8")
        .cache_control("no-store")
        .metadata("color", "blue")
        .send()
        .await
        .unwrap();
    let head = s3
        .client
        .head_object()
        .bucket(BUCKET)
        .key("a.txt")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_length(), Some(7));
    assert_eq!(head.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(head.cache_control(), Some("no-store"));
    assert_eq!(head.metadata().unwrap()["color"], "blue");
    assert!(head.last_modified().is_some());
    assert_eq!(s3.get("a.txt").await.unwrap(), "grüezi");
    assert_eq!(s3.get("b.txt").await, None);
}

#[tokio::test]
async fn keys_are_data_and_may_hold_anything() {
    let s3 = start().await;
    let long = format!("deep/{}", "x".repeat(1019));
    let keys = [
        "f",
        "f/g",
        "f/g/h",
        "../up",
        "a/../../../b",
        "a//b",
        "/lead",
        "%2e%2e/x",
        "ü 漢字?&=+#",
        &long,
    ];
    for key in keys {
        s3.put(key, key).await;
    }
    for key in keys {
        assert_eq!(s3.get(key).await.as_deref(), Some(key));
    }
    let too_long = "y".repeat(1025);
    let refused = s3.client.put_object().bucket(BUCKET).key(too_long).send().await;
    assert_eq!(code(refused), "KeyTooLongError");
    let names: Vec<String> = std::fs::read_dir(s3.dir.path().join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), keys.len());
    assert!(names.iter().all(|name| name.len() == 36));
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing_and_keeps_the_old_content() {
    let s3 = start().await;
    s3.put("kept", "old").await;
    for key in ["kept", "new"] {
        let put = || {
            s3.client
                .put_object()
                .bucket(BUCKET)
                .key(key)
                .body(ByteStream::from_static(b"bad"))
        };
        // The SHA-256 and MD5 of other contents.
        let wrong = put()
            .checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
            .send()
            .await;
        assert_eq!(code(wrong), "BadDigest");
        let wrong = put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await;
        assert_eq!(code(wrong), "BadDigest");
        let invalid = put().content_md5("short").send().await;
        assert_eq!(code(invalid), "InvalidDigest");
    }
    assert_eq!(s3.get("kept").await.as_deref(), Some("old"));
    assert_eq!(s3.get("new").await, None);
    assert_eq!(std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_dir(s3.dir.path().join("incoming")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn one_of_many_creators_wins() {
    let s3 = start().await;
    for round in 0..4 {
        let key = format!("lock-{round}");
        let tries = (0..24).map(|number| {
            let put = s3.client.put_object().bucket(BUCKET).key(&key).if_none_match("*");
            put.body(format!("{number}").into_bytes().into()).send()
        });
        let codes: Vec<String> = futures::future::join_all(tries)
            .await
            .into_iter()
            .map(code)
            .collect();
        assert_eq!(codes.iter().filter(|code| *code == "ok").count(), 1, "{codes:?}");
        assert_eq!(
            codes.iter().filter(|code| *code == "PreconditionFailed").count(),
            23
        );
    }
}

#[tokio::test]
async fn if_match_replaces_only_the_seen_version() {
    let s3 = start().await;
    s3.put("doc", "one").await;
    let seen = s3
        .client
        .head_object()
        .bucket(BUCKET)
        .key("doc")
        .send()
        .await
        .unwrap();
    let tag = seen.e_tag().unwrap();
    let put = || s3.client.put_object().bucket(BUCKET).key("doc").if_match(tag);
    assert_eq!(
        code(put().body(ByteStream::from_static(b"two")).send().await),
        "ok"
    );
    assert_eq!(
        code(put().body(ByteStream::from_static(b"three")).send().await),
        "PreconditionFailed"
    );
    assert_eq!(s3.get("doc").await.as_deref(), Some("two"));
    let unchanged = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("doc")
        .if_none_match(tag)
        .send()
        .await;
    assert_eq!(code(unchanged), "ok");
    let now = s3
        .client
        .head_object()
        .bucket(BUCKET)
        .key("doc")
        .send()
        .await
        .unwrap();
    let same = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("doc")
        .if_none_match(now.e_tag().unwrap())
        .send()
        .await;
    assert_eq!(same.unwrap_err().raw_response().unwrap().status().as_u16(), 304);
}

#[tokio::test]
async fn reads_ranges() {
    let s3 = start().await;
    s3.put("r", "0123456789").await;
    for (range, want, header) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
    ] {
        let part = s3
            .client
            .get_object()
            .bucket(BUCKET)
            .key("r")
            .range(range)
            .send()
            .await
            .unwrap();
        assert_eq!(part.content_range(), Some(header));
        assert_eq!(part.body.collect().await.unwrap().into_bytes(), want);
    }
    let beyond = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("r")
        .range("bytes=10-")
        .send()
        .await;
    assert_eq!(code(beyond), "InvalidRange");
}

#[tokio::test]
async fn copies_keep_or_replace_headers_and_outlive_their_source() {
    let s3 = start().await;
    let put = s3
        .client
        .put_object()
        .bucket(BUCKET)
        .key("from")
        .content_type("text/csv");
    put.body(ByteStream::from_static(b"a,b")).send().await.unwrap();
    let source = format!("{BUCKET}/from");
    s3.client
        .copy_object()
        .bucket(BUCKET)
        .key("to")
        .copy_source(&source)
        .send()
        .await
        .unwrap();
    s3.client
        .delete_object()
        .bucket(BUCKET)
        .key("from")
        .send()
        .await
        .unwrap();
    let copy = s3
        .client
        .head_object()
        .bucket(BUCKET)
        .key("to")
        .send()
        .await
        .unwrap();
    assert_eq!(copy.content_type(), Some("text/csv"));
    assert_eq!(s3.get("to").await.as_deref(), Some("a,b"));
    let missing = s3
        .client
        .copy_object()
        .bucket(BUCKET)
        .key("to2")
        .copy_source(&source)
        .send()
        .await;
    assert_eq!(code(missing), "NoSuchKey");
}

#[tokio::test]
async fn a_wrong_secret_and_an_unsigned_request_are_refused() {
    let s3 = start().await;
    s3.put("private", "x").await;
    let stranger = client(&s3.server, "wrong");
    let refused = stranger.get_object().bucket(BUCKET).key("private").send().await;
    assert_eq!(code(refused), "SignatureDoesNotMatch");
    let refused = stranger.put_object().bucket(BUCKET).key("private").send().await;
    assert_eq!(code(refused), "SignatureDoesNotMatch");
    let url = format!("http://{}/{BUCKET}/private", s3.server.addr());
    assert_eq!(reqwest::get(url).await.unwrap().status(), 403);
    assert_eq!(s3.get("private").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn presigned_urls_put_and_get() {
    let s3 = start().await;
    let hour = PresigningConfig::expires_in(Duration::from_hours(1)).unwrap();
    let put = s3
        .client
        .put_object()
        .bucket(BUCKET)
        .key("dir/p q.txt")
        .presigned(hour.clone())
        .await
        .unwrap();
    let http = reqwest::Client::new();
    let answer = http.put(put.uri()).body("by url").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let read = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("dir/p q.txt")
        .presigned(hour)
        .await
        .unwrap();
    assert_eq!(
        http.get(read.uri()).send().await.unwrap().text().await.unwrap(),
        "by url"
    );
    let other = read.uri().replace("p%20q.txt", "other.txt");
    assert_eq!(http.get(other).send().await.unwrap().status(), 403);
    assert_eq!(
        http.put(read.uri()).body("no").send().await.unwrap().status(),
        403
    );
}

#[tokio::test]
async fn deleting_many_says_what_was_asked_and_buckets_go_when_empty() {
    use aws_sdk_s3::types::{Delete, ObjectIdentifier};
    let s3 = start().await;
    s3.put("a", "1").await;
    s3.put("b", "2").await;
    let full = s3.client.delete_bucket().bucket(BUCKET).send().await;
    assert_eq!(code(full), "BucketNotEmpty");
    let ids = ["a", "b", "missing"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(ids.to_vec())).build().unwrap();
    let gone = s3
        .client
        .delete_objects()
        .bucket(BUCKET)
        .delete(delete)
        .send()
        .await
        .unwrap();
    assert_eq!(gone.deleted().len(), 3);
    assert_eq!(get(&s3.client, "a").await, None);
    s3.client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    assert!(
        s3.client
            .head_bucket()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap_err()
            .as_service_error()
            .unwrap()
            .is_not_found()
    );
    assert_eq!(std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn streamed_files_arrive_whole() {
    let s3 = start().await;
    let path = s3.dir.path().join("big");
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let body = ByteStream::from_path(&path).await.unwrap();
    s3.client
        .put_object()
        .bucket(BUCKET)
        .key("big")
        .body(body)
        .send()
        .await
        .unwrap();
    let found = s3
        .client
        .get_object()
        .bucket(BUCKET)
        .key("big")
        .send()
        .await
        .unwrap();
    assert!(found.body.collect().await.unwrap().into_bytes() == content);
}
