//! Multipart uploads: begun, filled part by part, completed into one content or aborted.

use super::objects::check_key;
use super::{checksums_of, etag, headers_of, timestamp};
use crate::index::Index;
use crate::record::{Content, Entry, Record, Upload};
use crate::store::{Conditions, Store, bucket};
use crate::upload::{Claims, Received, combined_md5, fresh_incoming, receive};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload,
    Part, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use uuid::Uuid;

/// Every part but the last has at least this many bytes.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
const MAX_PARTS: i32 = 10_000;
const MAX_PAGE: i32 = 1000;

/// An upload, if it is of this object.
fn upload<'a>(index: &'a Index, bucket: &str, key: &str, id: &str) -> S3Result<(Uuid, &'a Upload)> {
    let found = Uuid::parse_str(id)
        .ok()
        .and_then(|id| Some((id, index.uploads.get(&id)?)));
    found
        .filter(|(_, upload)| upload.bucket == bucket && upload.key == key)
        .ok_or_else(|| s3_error!(NoSuchUpload, "The specified multipart upload does not exist"))
}

pub(crate) async fn create(
    store: &Store,
    mut input: CreateMultipartUploadInput,
) -> S3Result<CreateMultipartUploadOutput> {
    check_key(&input.key)?;
    let id = store.new_id();
    let upload = Upload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        started_ms: store.now_ms(),
        headers: headers_of!(input),
        parts: BTreeMap::new(),
    };
    store
        .change(move |index| {
            bucket(index, &upload.bucket)?;
            Ok((Some(Record::Begin { id, upload }), ()))
        })
        .await?;
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id.to_string()),
        checksum_algorithm: input.checksum_algorithm,
        ..CreateMultipartUploadOutput::default()
    })
}

pub(crate) async fn put_part(
    store: &Store,
    mut input: UploadPartInput,
    trailers: Option<TrailingHeaders>,
) -> S3Result<UploadPartOutput> {
    let number = input.part_number;
    if !(1..=MAX_PARTS).contains(&number) {
        return Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000"
        ));
    }
    store.read(|index| upload(index, &input.bucket, &input.key, &input.upload_id).map(|_| ()))?;
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
    let content = store
        .change(move |index| {
            let (id, _) = upload(index, &input.bucket, &input.key, &input.upload_id)?;
            let content = received.keep();
            Ok((
                Some(Record::Part {
                    id,
                    number,
                    content: content.clone(),
                }),
                content,
            ))
        })
        .await?;
    Ok(UploadPartOutput {
        e_tag: Some(etag(&content.etag)),
        checksum_crc32: content.checksums.crc32,
        checksum_crc32c: content.checksums.crc32c,
        checksum_crc64nvme: content.checksums.crc64nvme,
        checksum_sha1: content.checksums.sha1,
        checksum_sha256: content.checksums.sha256,
        ..UploadPartOutput::default()
    })
}

/// The stored parts the client names, checked.
fn chosen(upload: &Upload, named: &[CompletedPart]) -> S3Result<Vec<Content>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let mut before = 0;
    let mut parts = Vec::with_capacity(named.len());
    for part in named {
        let number = part.part_number.unwrap_or_default();
        if number <= before {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order"
            ));
        }
        before = number;
        let stored = upload
            .parts
            .get(&number)
            .filter(|stored| is_named_by(stored, part));
        let stored =
            stored.ok_or_else(|| s3_error!(InvalidPart, "Part {number} is missing or its tag differs"))?;
        parts.push(stored.clone());
    }
    let small = parts.iter().rev().skip(1).any(|part| part.size < MIN_PART_BYTES);
    if small {
        return Err(s3_error!(
            EntityTooSmall,
            "A part but the last is smaller than 5 MiB"
        ));
    }
    Ok(parts)
}

fn is_named_by(stored: &Content, part: &CompletedPart) -> bool {
    let sums = &stored.checksums;
    let same = |claimed: &Option<String>, stored: &Option<String>| claimed.is_none() || claimed == stored;
    part.e_tag.as_ref().is_some_and(|tag| tag.value() == stored.etag)
        && same(&part.checksum_crc32, &sums.crc32)
        && same(&part.checksum_crc32c, &sums.crc32c)
        && same(&part.checksum_crc64nvme, &sums.crc64nvme)
        && same(&part.checksum_sha1, &sums.sha1)
        && same(&part.checksum_sha256, &sums.sha256)
}

pub(crate) async fn complete(
    store: &Store,
    input: CompleteMultipartUploadInput,
) -> S3Result<CompleteMultipartUploadOutput> {
    let named = input
        .multipart_upload
        .and_then(|upload| upload.parts)
        .unwrap_or_default();
    let (name, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    let parts = store.read(|index| chosen(upload(index, &name, &key, &id)?.1, &named))?;
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if input
        .mpu_object_size
        .is_some_and(|claimed| u64::try_from(claimed) != Ok(size))
    {
        return Err(s3_error!(
            InvalidRequest,
            "The object size does not match the one you specified"
        ));
    }
    let received = join(store, &parts, size).await?;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
    };
    let tag = store
        .change(move |index| {
            let (id, upload) = upload(index, &name, &key, &id)?;
            // The same parts as were joined above.
            if chosen(upload, &named)? != parts {
                return Err(s3_error!(InvalidPart, "A part was replaced meanwhile"));
            }
            conditions.check(bucket(index, &name)?.objects.get(&key))?;
            let entry = Entry {
                content: received.keep(),
                headers: upload.headers.clone(),
            };
            let tag = entry.content.etag.clone();
            Ok((Some(Record::Complete { id, entry }), tag))
        })
        .await?;
    Ok(CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(etag(&tag)),
        ..CompleteMultipartUploadOutput::default()
    })
}

/// Puts the parts' contents together into one.
async fn join(store: &Store, parts: &[Content], size: u64) -> S3Result<Received> {
    let (blob, path) = fresh_incoming(store);
    let sources: Vec<PathBuf> = parts
        .iter()
        .map(|part| store.blobs().accepted(part.blob))
        .collect();
    let blobs = store.blobs().clone();
    let joined = tokio::task::spawn_blocking(move || {
        let joined = concatenate(&sources, &path).and_then(|()| blobs.accept(blob));
        joined.inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(%error, "object store: nothing to remove after a failed completion");
            }
        })
    });
    match joined.await.map_err(S3Error::internal_error)? {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(s3_error!(
                NoSuchUpload,
                "The upload was completed or aborted meanwhile"
            ));
        }
        Err(error) => return Err(S3Error::internal_error(error)),
    }
    let md5 = combined_md5(parts.iter().map(|part| part.etag.as_str()));
    let content = Content {
        blob,
        size,
        etag: format!("{md5}-{}", parts.len()),
        modified_ms: store.now_ms(),
        checksums: crate::record::Checksums::default(),
    };
    Ok(Received::new(store, content))
}

fn concatenate(sources: &[PathBuf], target: &PathBuf) -> io::Result<()> {
    let mut out = File::create(target)?;
    for source in sources {
        io::copy(&mut File::open(source)?, &mut out)?;
    }
    out.sync_all()
}

pub(crate) async fn abort(
    store: &Store,
    input: AbortMultipartUploadInput,
) -> S3Result<AbortMultipartUploadOutput> {
    store
        .change(move |index| {
            let (id, _) = upload(index, &input.bucket, &input.key, &input.upload_id)?;
            Ok((Some(Record::Abort { id }), AbortMultipartUploadOutput::default()))
        })
        .await
}

pub(crate) fn list_parts(store: &Store, input: ListPartsInput) -> S3Result<ListPartsOutput> {
    let after = input.part_number_marker.unwrap_or(0);
    let limit = input.max_parts.unwrap_or(MAX_PAGE).clamp(0, MAX_PAGE);
    store.read(|index| {
        let (_, upload) = upload(index, &input.bucket, &input.key, &input.upload_id)?;
        let behind: Vec<(&i32, &Content)> = upload
            .parts
            .iter()
            .filter(|(number, _)| **number > after)
            .collect();
        let shown = &behind[..behind.len().min(limit as usize)];
        let part = |(number, content): &(&i32, &Content)| Part {
            part_number: Some(**number),
            e_tag: Some(etag(&content.etag)),
            size: i64::try_from(content.size).ok(),
            last_modified: Some(timestamp(content.modified_ms)),
            ..Part::default()
        };
        Ok(ListPartsOutput {
            bucket: Some(input.bucket.clone()),
            key: Some(input.key.clone()),
            upload_id: Some(input.upload_id.clone()),
            part_number_marker: Some(after),
            max_parts: Some(limit),
            is_truncated: Some(shown.len() < behind.len()),
            next_part_number_marker: shown.last().map(|(number, _)| **number),
            parts: Some(shown.iter().map(part).collect()),
            ..ListPartsOutput::default()
        })
    })
}

pub(crate) fn list_uploads(
    store: &Store,
    input: ListMultipartUploadsInput,
) -> S3Result<ListMultipartUploadsOutput> {
    let prefix = input.prefix.clone().unwrap_or_default();
    let limit = input.max_uploads.unwrap_or(MAX_PAGE).clamp(0, MAX_PAGE);
    let marker = input
        .key_marker
        .clone()
        .map(|key| (key, input.upload_id_marker.clone()));
    store.read(|index| {
        bucket(index, &input.bucket)?;
        let ours = index
            .uploads
            .iter()
            .filter(|(_, upload)| upload.bucket == input.bucket);
        let mut found: Vec<(&str, String, i64)> = ours
            .map(|(id, upload)| (upload.key.as_str(), id.to_string(), upload.started_ms))
            .collect();
        found.retain(|(key, id, _)| key.starts_with(&prefix) && is_behind(key, id, marker.as_ref()));
        found.sort_unstable();
        let shown = &found[..found.len().min(limit as usize)];
        let truncated = shown.len() < found.len();
        let last = shown.last().filter(|_| truncated);
        let upload = |(key, id, started_ms): &(&str, String, i64)| MultipartUpload {
            key: Some((*key).to_owned()),
            upload_id: Some(id.clone()),
            initiated: Some(timestamp(*started_ms)),
            ..MultipartUpload::default()
        };
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: input.prefix.clone(),
            key_marker: input.key_marker.clone(),
            upload_id_marker: input.upload_id_marker.clone(),
            max_uploads: Some(limit),
            is_truncated: Some(truncated),
            next_key_marker: last.map(|(key, _, _)| (*key).to_owned()),
            next_upload_id_marker: last.map(|(_, id, _)| id.clone()),
            uploads: Some(shown.iter().map(upload).collect()),
            ..ListMultipartUploadsOutput::default()
        })
    })
}

fn is_behind(key: &str, id: &str, marker: Option<&(String, Option<String>)>) -> bool {
    match marker {
        None => true,
        Some((after, None)) => key > after.as_str(),
        Some((after, Some(after_id))) => (key, id) > (after.as_str(), after_id.as_str()),
    }
}
