//! Put, copy and delete objects.

use super::{checksums_of, etag, headers_of, timestamp};
use crate::record::{Content, Entry, Headers, Record};
use crate::store::{Conditions, Store, bucket, copy_source, failed, matches, object};
use crate::upload::{Claims, Received, receive};
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, MetadataDirective, PutObjectInput,
    PutObjectOutput,
};
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};
use std::io::ErrorKind;

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 1024;

pub(crate) fn check_key(key: &str) -> S3Result<()> {
    if key.len() > MAX_KEY_BYTES {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    Ok(())
}

pub(crate) async fn put(
    store: &Store,
    mut input: PutObjectInput,
    trailers: Option<TrailingHeaders>,
) -> S3Result<PutObjectOutput> {
    check_key(&input.key)?;
    store.read(|index| bucket(index, &input.bucket).map(|_| ()))?;
    let claims = Claims {
        md5: input.content_md5.take(),
        checksums: checksums_of!(input),
        trailers,
        algorithm: input
            .checksum_algorithm
            .as_ref()
            .map(|name| name.as_str().to_owned()),
    };
    let received = receive(store, input.body.take(), claims).await?;
    let headers = headers_of!(input);
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
    };
    let content = commit(store, (input.bucket, input.key), received, headers, conditions).await?;
    Ok(PutObjectOutput {
        e_tag: Some(etag(&content.etag)),
        checksum_crc32: content.checksums.crc32,
        checksum_crc32c: content.checksums.crc32c,
        checksum_crc64nvme: content.checksums.crc64nvme,
        checksum_sha1: content.checksums.sha1,
        checksum_sha256: content.checksums.sha256,
        ..PutObjectOutput::default()
    })
}

/// Makes a received content the object at `(bucket, key)` if the conditions hold.
async fn commit(
    store: &Store,
    (name, key): (String, String),
    received: Received,
    headers: Headers,
    conditions: Conditions,
) -> S3Result<Content> {
    store
        .change(move |index| {
            conditions.check(bucket(index, &name)?.objects.get(&key))?;
            let content = received.keep();
            let entry = Entry {
                content: content.clone(),
                headers,
            };
            Ok((
                Some(Record::Put {
                    bucket: name,
                    key,
                    entry,
                }),
                content,
            ))
        })
        .await
}

pub(crate) async fn copy(store: &Store, mut input: CopyObjectInput) -> S3Result<CopyObjectOutput> {
    check_key(&input.key)?;
    let (from_bucket, from_key) = copy_source(&input.copy_source)?;
    let replace = input.metadata_directive.as_ref().map(MetadataDirective::as_str) == Some("REPLACE");
    if !replace && (&from_bucket, &from_key) == (&input.bucket, &input.key) {
        return Err(s3_error!(
            InvalidRequest,
            "An object cannot be copied to itself without new metadata"
        ));
    }
    let (entry, received) = duplicate(store, &from_bucket, &from_key, |entry| {
        let tag = &entry.content.etag;
        let wanted = input
            .copy_source_if_match
            .as_ref()
            .is_none_or(|condition| matches(condition, tag));
        let unwanted = input
            .copy_source_if_none_match
            .as_ref()
            .is_some_and(|condition| matches(condition, tag));
        if wanted && !unwanted {
            Ok(())
        } else {
            Err(failed())
        }
    })
    .await?;
    let headers = if replace {
        headers_of!(input)
    } else {
        entry.headers
    };
    let target = (input.bucket, input.key);
    let content = commit(store, target, received, headers, Conditions::default()).await?;
    Ok(CopyObjectOutput {
        copy_object_result: Some(CopyObjectResult {
            e_tag: Some(etag(&content.etag)),
            last_modified: Some(timestamp(content.modified_ms)),
            ..CopyObjectResult::default()
        }),
        ..CopyObjectOutput::default()
    })
}

/// A second content like that of an object; tried again when the object is replaced meanwhile.
async fn duplicate(
    store: &Store,
    name: &str,
    key: &str,
    check: impl Fn(&Entry) -> S3Result<()>,
) -> S3Result<(Entry, Received)> {
    loop {
        let entry = store.read(|index| object(index, name, key).cloned())?;
        check(&entry)?;
        let (blobs, from, id) = (store.blobs().clone(), entry.content.blob, store.new_id());
        let copied = tokio::task::spawn_blocking(move || blobs.duplicate(from, id)).await;
        match copied.map_err(S3Error::internal_error)? {
            Ok(()) => {
                let content = Content {
                    blob: id,
                    modified_ms: store.now_ms(),
                    ..entry.content.clone()
                };
                return Ok((entry, Received::new(store, content)));
            }
            Err(error) if error.kind() == ErrorKind::NotFound && replaced(store, name, key, &entry)? => {}
            Err(error) => return Err(S3Error::internal_error(error)),
        }
    }
}

/// Whether the object's content is another one by now.
pub(crate) fn replaced(store: &Store, name: &str, key: &str, seen: &Entry) -> S3Result<bool> {
    store.read(|index| Ok(object(index, name, key)?.content.blob != seen.content.blob))
}

pub(crate) async fn delete(store: &Store, input: DeleteObjectInput) -> S3Result<DeleteObjectOutput> {
    store
        .change(move |index| {
            let current = bucket(index, &input.bucket)?.objects.get(&input.key);
            let conditions = Conditions {
                if_match: input.if_match,
                if_none_match: None,
            };
            conditions.check(current)?;
            let record = current.map(|_| Record::Delete {
                bucket: input.bucket,
                keys: vec![input.key],
            });
            Ok((record, DeleteObjectOutput::default()))
        })
        .await
}

pub(crate) async fn delete_many(store: &Store, input: DeleteObjectsInput) -> S3Result<DeleteObjectsOutput> {
    let quiet = input.delete.quiet.unwrap_or(false);
    let asked: Vec<String> = input
        .delete
        .objects
        .into_iter()
        .map(|object| object.key)
        .collect();
    let named = asked.clone();
    store
        .change(move |index| {
            let objects = &bucket(index, &input.bucket)?.objects;
            let keys: Vec<String> = named
                .into_iter()
                .filter(|key| objects.contains_key(key))
                .collect();
            let record = (!keys.is_empty()).then_some(Record::Delete {
                bucket: input.bucket,
                keys,
            });
            Ok((record, ()))
        })
        .await?;
    let deleted = asked.into_iter().map(|key| DeletedObject {
        key: Some(key),
        ..DeletedObject::default()
    });
    Ok(DeleteObjectsOutput {
        deleted: (!quiet).then(|| deleted.collect()),
        ..DeleteObjectsOutput::default()
    })
}
