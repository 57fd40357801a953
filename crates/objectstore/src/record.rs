//! What the journal holds: one record per change. Times are whole milliseconds since 1970 in UTC.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Headers stored with an object and given back with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Headers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// `x-amz-meta-*` without the prefix.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, String>,
}

/// Checksums the client sent (base64), verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Checksums {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc32: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A stored content: an object's or a part's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub blob: Uuid,
    pub size: u64,
    /// Without quotes: MD5 as hex, for multipart `md5-of-md5s-N`.
    pub etag: String,
    pub modified_ms: i64,
    #[serde(default)]
    pub checksums: Checksums,
}

/// An object as listed and read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub content: Content,
    #[serde(default)]
    pub headers: Headers,
}

/// A multipart upload under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub bucket: String,
    pub key: String,
    pub started_ms: i64,
    #[serde(default)]
    pub headers: Headers,
    #[serde(default)]
    pub parts: BTreeMap<i32, Content>,
}

/// One change of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Record {
    CreateBucket {
        bucket: String,
        at_ms: i64,
    },
    DeleteBucket {
        bucket: String,
    },
    Put {
        bucket: String,
        key: String,
        entry: Entry,
    },
    Delete {
        bucket: String,
        keys: Vec<String>,
    },
    Begin {
        id: Uuid,
        upload: Upload,
    },
    Part {
        id: Uuid,
        number: i32,
        content: Content,
    },
    /// The upload becomes the object; its parts are dropped.
    Complete {
        id: Uuid,
        entry: Entry,
    },
    Abort {
        id: Uuid,
    },
}

impl Record {
    /// The content this record makes reachable, if any.
    pub(crate) fn blob(&self) -> Option<&Content> {
        match self {
            Self::Put { entry, .. } | Self::Complete { entry, .. } => Some(&entry.content),
            Self::Part { content, .. } => Some(content),
            _ => None,
        }
    }
}
