//! ListObjects, version 1 and 2.

use super::{etag, timestamp};
use crate::index::Bucket;
use crate::record::Entry;
use crate::store::{Store, bucket};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, ObjectStorageClass,
};
use s3s::{S3Result, s3_error};
use std::ops::Bound;

/// Most keys and prefixes of one page.
const MAX_KEYS: i32 = 1000;

/// Left as they are by `encoding-type=url`.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// One page of a listing.
struct Page {
    objects: Vec<(String, Entry)>,
    prefixes: Vec<String>,
    /// The last key or prefix of the page when there is more.
    next: Option<String>,
}

struct Query<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    /// Only keys and prefixes behind this one.
    after: &'a str,
    limit: usize,
}

fn page(bucket: &Bucket, query: &Query<'_>) -> Page {
    let mut page = Page {
        objects: vec![],
        prefixes: vec![],
        next: None,
    };
    let mut last = String::new();
    let mut from = if query.after >= query.prefix {
        Bound::Excluded(query.after.to_owned())
    } else {
        Bound::Included(query.prefix.to_owned())
    };
    while let Some((key, entry)) = bucket.objects.range((from, Bound::Unbounded)).next() {
        if !key.starts_with(query.prefix) {
            break;
        }
        let rolled = common_prefix(key, query);
        let shown = rolled.is_none_or(|prefix| prefix != query.after);
        if shown && page.objects.len() + page.prefixes.len() == query.limit {
            page.next = Some(last);
            break;
        }
        if let Some(prefix) = rolled {
            if shown {
                page.prefixes.push(prefix.to_owned());
            }
            prefix.clone_into(&mut last);
            from = Bound::Excluded(end_of(bucket, prefix));
        } else {
            page.objects.push((key.clone(), entry.clone()));
            last.clone_from(key);
            from = Bound::Excluded(key.clone());
        }
    }
    page
}

/// The prefix a key is rolled up into, up to and with the delimiter.
fn common_prefix<'a>(key: &'a str, query: &Query<'_>) -> Option<&'a str> {
    let delimiter = query.delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let start = query.prefix.len();
    let at = key[start..].find(delimiter)?;
    Some(&key[..start + at + delimiter.len()])
}

/// The last key that starts with `prefix`.
fn end_of(bucket: &Bucket, prefix: &str) -> String {
    // Nearly all keys below the prefix sort before this; the rest is walked.
    let mut last = format!("{prefix}{}", char::MAX);
    let rest = bucket
        .objects
        .range((Bound::Excluded(last.clone()), Bound::Unbounded));
    for (key, _) in rest.take_while(|(key, _)| key.starts_with(prefix)) {
        last.clone_from(key);
    }
    last
}

fn limit(asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MAX_KEYS) {
        negative if negative < 0 => Err(s3_error!(InvalidArgument, "max-keys must not be negative")),
        asked => Ok(asked.min(MAX_KEYS)),
    }
}

fn look(store: &Store, name: &str, query: &Query<'_>) -> S3Result<Page> {
    store.read(|index| {
        let bucket = bucket(index, name)?;
        if query.limit == 0 {
            return Ok(Page {
                objects: vec![],
                prefixes: vec![],
                next: None,
            });
        }
        Ok(page(bucket, query))
    })
}

/// How names are written into the answer.
fn writer(encoding: Option<&EncodingType>) -> impl Fn(String) -> String + use<> {
    let url = encoding.map(EncodingType::as_str) == Some("url");
    move |name| {
        if url {
            utf8_percent_encode(&name, PLAIN).to_string()
        } else {
            name
        }
    }
}

fn contents(objects: Vec<(String, Entry)>, write: &impl Fn(String) -> String) -> Vec<Object> {
    let object = |(key, entry): (String, Entry)| Object {
        key: Some(write(key)),
        e_tag: Some(etag(&entry.content.etag)),
        size: i64::try_from(entry.content.size).ok(),
        last_modified: Some(timestamp(entry.content.modified_ms)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Object::default()
    };
    objects.into_iter().map(object).collect()
}

fn prefixes(prefixes: Vec<String>, write: &impl Fn(String) -> String) -> Vec<CommonPrefix> {
    prefixes
        .into_iter()
        .map(|prefix| CommonPrefix {
            prefix: Some(write(prefix)),
        })
        .collect()
}

fn decode_token(token: &str) -> S3Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

pub(crate) fn list_v2(store: &Store, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let max_keys = limit(input.max_keys)?;
    let after = match &input.continuation_token {
        Some(token) => decode_token(token)?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or_default(),
        delimiter: input.delimiter.as_deref(),
        after: &after,
        limit: max_keys as usize,
    };
    let page = look(store, &input.bucket, &query)?;
    let write = writer(input.encoding_type.as_ref());
    Ok(ListObjectsV2Output {
        key_count: i32::try_from(page.objects.len() + page.prefixes.len()).ok(),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.map(|next| URL_SAFE_NO_PAD.encode(next)),
        contents: Some(contents(page.objects, &write)),
        common_prefixes: Some(prefixes(page.prefixes, &write)),
        name: Some(input.bucket),
        prefix: Some(write(input.prefix.unwrap_or_default())),
        delimiter: input.delimiter.map(&write),
        start_after: input.start_after.map(&write),
        max_keys: Some(max_keys),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        request_charged: None,
    })
}

pub(crate) fn list_v1(store: &Store, input: ListObjectsInput) -> S3Result<ListObjectsOutput> {
    let max_keys = limit(input.max_keys)?;
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or_default(),
        delimiter: input.delimiter.as_deref(),
        after: input.marker.as_deref().unwrap_or_default(),
        limit: max_keys as usize,
    };
    let page = look(store, &input.bucket, &query)?;
    let write = writer(input.encoding_type.as_ref());
    Ok(ListObjectsOutput {
        is_truncated: Some(page.next.is_some()),
        next_marker: page.next.map(&write),
        contents: Some(contents(page.objects, &write)),
        common_prefixes: Some(prefixes(page.prefixes, &write)),
        name: Some(input.bucket),
        prefix: Some(write(input.prefix.unwrap_or_default())),
        marker: Some(write(input.marker.unwrap_or_default())),
        delimiter: input.delimiter.map(&write),
        max_keys: Some(max_keys),
        encoding_type: input.encoding_type,
        request_charged: None,
    })
}
