use crate::setup::{BUCKET, Running, code, start};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

const PART: usize = 5 * 1024 * 1024;

async fn begin(s3: &Running, key: &str) -> String {
    let begun = s3
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .content_type("text/x")
        .send()
        .await;
    begun.unwrap().upload_id().unwrap().to_owned()
}

async fn part(s3: &Running, key: &str, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
    let sent = s3
        .client
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .part_number(number);
    let sent = sent.body(ByteStream::from(bytes)).send().await.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .e_tag(sent.e_tag().unwrap())
        .set_checksum_crc32(sent.checksum_crc32().map(str::to_owned))
        .build()
}

async fn complete(s3: &Running, key: &str, id: &str, parts: Vec<CompletedPart>) -> String {
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let done = s3
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id);
    code(done.multipart_upload(list).send().await)
}

#[tokio::test]
async fn joins_the_parts_in_order_and_only_on_completion() {
    let s3 = start().await;
    let id = begin(&s3, "m").await;
    let second = part(&s3, "m", &id, 2, b"tail".to_vec()).await;
    let first = part(&s3, "m", &id, 1, vec![b'a'; PART]).await;
    assert_eq!(s3.get("m").await, None);
    let parts = s3
        .client
        .list_parts()
        .bucket(BUCKET)
        .key("m")
        .upload_id(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(parts.parts().len(), 2);
    let uploads = s3
        .client
        .list_multipart_uploads()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));
    assert_eq!(
        complete(&s3, "m", &id, vec![second.clone(), first.clone()]).await,
        "InvalidPartOrder"
    );
    assert_eq!(complete(&s3, "m", &id, vec![first, second]).await, "ok");
    let head = s3
        .client
        .head_object()
        .bucket(BUCKET)
        .key("m")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_length(), Some(PART as i64 + 4));
    assert_eq!(head.content_type(), Some("text/x"));
    assert!(head.e_tag().unwrap().ends_with("-2\""));
    let text = s3.get("m").await.unwrap();
    assert!(text.starts_with("aaaa") && text.ends_with("aatail"));
    assert_eq!(std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count(), 1);
}

#[tokio::test]
async fn refuses_small_wrong_and_missing_parts() {
    let s3 = start().await;
    let id = begin(&s3, "m").await;
    let first = part(&s3, "m", &id, 1, b"small".to_vec()).await;
    let second = part(&s3, "m", &id, 2, b"tail".to_vec()).await;
    assert_eq!(
        complete(&s3, "m", &id, vec![first.clone(), second]).await,
        "EntityTooSmall"
    );
    let wrong = CompletedPart::builder().part_number(1).e_tag("\"0123\"").build();
    assert_eq!(complete(&s3, "m", &id, vec![wrong]).await, "InvalidPart");
    let missing = CompletedPart::builder().part_number(3).e_tag("\"0123\"").build();
    assert_eq!(complete(&s3, "m", &id, vec![missing]).await, "InvalidPart");
    assert_eq!(complete(&s3, "m", &id, vec![first]).await, "ok");
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let s3 = start().await;
    let id = begin(&s3, "m").await;
    part(&s3, "m", &id, 1, b"x".to_vec()).await;
    let abort = s3
        .client
        .abort_multipart_upload()
        .bucket(BUCKET)
        .key("m")
        .upload_id(&id);
    abort.send().await.unwrap();
    assert_eq!(std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count(), 0);
    let late = s3
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("m")
        .upload_id(&id)
        .part_number(2)
        .send()
        .await;
    assert_eq!(code(late), "NoSuchUpload");
}
