//! The S3 operations on a [`crate::Store`], one module per kind.

pub(crate) mod buckets;
pub(crate) mod listing;
pub(crate) mod multipart;
pub(crate) mod objects;
pub(crate) mod read;

use s3s::dto::{ETag, Timestamp};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A stored time as the protocol layer wants it.
pub(crate) fn timestamp(at_ms: i64) -> Timestamp {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    SystemTime::from(at).into()
}

pub(crate) fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

/// `x-amz-meta-*` of a request.
pub(crate) fn user_metadata(metadata: Option<s3s::dto::Metadata>) -> BTreeMap<String, String> {
    metadata.unwrap_or_default().into_iter().collect()
}

/// The stored headers of a request; every input type has these fields under the same names.
macro_rules! headers_of {
    ($input:expr) => {
        $crate::record::Headers {
            content_type: $input.content_type.take(),
            content_encoding: $input.content_encoding.take(),
            content_disposition: $input.content_disposition.take(),
            content_language: $input.content_language.take(),
            cache_control: $input.cache_control.take(),
            user: $crate::ops::user_metadata($input.metadata.take()),
        }
    };
}
pub(crate) use headers_of;

/// The checksums sent in a request's headers.
macro_rules! checksums_of {
    ($input:expr) => {
        $crate::record::Checksums {
            crc32: $input.checksum_crc32.take(),
            crc32c: $input.checksum_crc32c.take(),
            crc64nvme: $input.checksum_crc64nvme.take(),
            sha1: $input.checksum_sha1.take(),
            sha256: $input.checksum_sha256.take(),
        }
    };
}
pub(crate) use checksums_of;
