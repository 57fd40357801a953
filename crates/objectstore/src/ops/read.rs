//! GET and HEAD of objects, with ranges and conditions.

use super::objects::replaced;
use super::{etag, timestamp};
use crate::record::{Checksums, Entry};
use crate::store::{Store, failed, matches, object};
use s3s::dto::{
    ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Metadata, Range,
    StreamingBlob, Timestamp,
};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::io::{ErrorKind, SeekFrom};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Read from the file at once.
const READ_BUFFER_BYTES: usize = 128 * 1024;

/// The four conditions of a read, in the order RFC 9110 gives them.
struct ReadConditions {
    matching: Option<ETagCondition>,
    none_match: Option<ETagCondition>,
    modified_since: Option<Timestamp>,
    unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    fn check(&self, entry: &Entry) -> S3Result<()> {
        let tag = &entry.content.etag;
        // HTTP dates have whole seconds.
        let modified = timestamp(entry.content.modified_ms.div_euclid(1000) * 1000);
        let held = match &self.matching {
            Some(wanted) => matches(wanted, tag),
            None => self.unmodified_since.as_ref().is_none_or(|at| modified <= *at),
        };
        if !held {
            return Err(failed());
        }
        let same = match &self.none_match {
            Some(unwanted) => matches(unwanted, tag),
            None => self.modified_since.as_ref().is_some_and(|at| modified <= *at),
        };
        if same {
            Err(S3Error::new(S3ErrorCode::NotModified))
        } else {
            Ok(())
        }
    }
}

/// The asked part of a content: offset, length and the `Content-Range` header when it is a part.
fn part(entry: &Entry, range: Option<Range>) -> S3Result<(u64, u64, Option<String>)> {
    let size = entry.content.size;
    let Some(range) = range else {
        return Ok((0, size, None));
    };
    let asked = range
        .check(size)
        .map_err(|_| s3_error!(InvalidRange, "The requested range is not satisfiable"))?;
    if asked.is_empty() {
        return Err(s3_error!(InvalidRange, "The requested range is not satisfiable"));
    }
    let header = format!("bytes {}-{}/{size}", asked.start, asked.end - 1);
    Ok((asked.start, asked.end - asked.start, Some(header)))
}

fn metadata(entry: &Entry) -> Option<Metadata> {
    let user = &entry.headers.user;
    (!user.is_empty()).then(|| {
        user.iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    })
}

/// Checksums are of the whole object, so they are told only with the whole object and when asked for.
fn told_checksums(entry: &Entry, asked: bool, whole: bool) -> Checksums {
    if asked && whole {
        entry.content.checksums.clone()
    } else {
        Checksums::default()
    }
}

pub(crate) async fn get(store: &Store, input: GetObjectInput) -> S3Result<GetObjectOutput> {
    let conditions = ReadConditions {
        matching: input.if_match,
        none_match: input.if_none_match,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    let (entry, mut file) = open(store, &input.bucket, &input.key, &conditions).await?;
    let (offset, length, content_range) = part(&entry, input.range)?;
    file.seek(SeekFrom::Start(offset))
        .await
        .map_err(S3Error::internal_error)?;
    let body = StreamingBlob::wrap(ReaderStream::with_capacity(file.take(length), READ_BUFFER_BYTES));
    let sums = told_checksums(&entry, input.checksum_mode.is_some(), content_range.is_none());
    let meta = metadata(&entry);
    let headers = entry.headers;
    Ok(GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        body: Some(body),
        content_length: i64::try_from(length).ok(),
        content_range,
        content_type: input.response_content_type.or(headers.content_type),
        content_encoding: input.response_content_encoding.or(headers.content_encoding),
        content_disposition: input.response_content_disposition.or(headers.content_disposition),
        content_language: input.response_content_language.or(headers.content_language),
        cache_control: input.response_cache_control.or(headers.cache_control),
        e_tag: Some(etag(&entry.content.etag)),
        last_modified: Some(timestamp(entry.content.modified_ms)),
        metadata: meta,
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..GetObjectOutput::default()
    })
}

/// Opens the content; an open file outlives the object's replacement.
async fn open(
    store: &Store,
    bucket: &str,
    key: &str,
    conditions: &ReadConditions,
) -> S3Result<(Entry, File)> {
    loop {
        let entry = store.read(|index| object(index, bucket, key).cloned())?;
        conditions.check(&entry)?;
        match File::open(store.blobs().accepted(entry.content.blob)).await {
            Ok(file) => return Ok((entry, file)),
            Err(error) if error.kind() == ErrorKind::NotFound && replaced(store, bucket, key, &entry)? => {}
            Err(error) => return Err(S3Error::internal_error(error)),
        }
    }
}

pub(crate) fn head(store: &Store, input: HeadObjectInput) -> S3Result<HeadObjectOutput> {
    let entry = store.read(|index| object(index, &input.bucket, &input.key).cloned())?;
    let conditions = ReadConditions {
        matching: input.if_match,
        none_match: input.if_none_match,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    conditions.check(&entry)?;
    let (_, length, content_range) = part(&entry, input.range)?;
    let sums = told_checksums(&entry, input.checksum_mode.is_some(), content_range.is_none());
    let meta = metadata(&entry);
    let headers = entry.headers;
    Ok(HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(length).ok(),
        content_range,
        content_type: headers.content_type,
        content_encoding: headers.content_encoding,
        content_disposition: headers.content_disposition,
        content_language: headers.content_language,
        cache_control: headers.cache_control,
        e_tag: Some(etag(&entry.content.etag)),
        last_modified: Some(timestamp(entry.content.modified_ms)),
        metadata: meta,
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        ..HeadObjectOutput::default()
    })
}
