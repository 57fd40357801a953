//! Objects in S3.

use crate::objects::{Content, Object, Page};
use crate::options::StoreOptions;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier};
use bytes::Bytes;
use domain::files::WorkspaceError;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

mod links;
mod pods;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One try of a call without a large body.
const SMALL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// One try of an upload: the largest default file at about 2 Mbit/s. Stalled streams are cut earlier.
const UPLOAD_ATTEMPT_TIMEOUT: Duration = Duration::from_mins(2);
const MAX_ATTEMPTS: u32 = 4;
/// Answer to a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Keys of one DeleteObjects call (the protocol's limit).
const DELETE_BATCH: usize = 1000;

/// Left as they are in the name of a copy's source.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// One bucket. Clones share connections.
#[derive(Debug, Clone)]
pub struct S3Objects {
    small: Client,
    upload: Client,
    /// Signs addresses for others.
    links: Client,
    bucket: String,
}

impl S3Objects {
    /// Makes the clients; connects only when used.
    pub fn new(options: &StoreOptions, keys: (&str, &str)) -> Self {
        let endpoint = options.s3_endpoint.as_str();
        Self {
            small: client(options, keys, (endpoint, SMALL_ATTEMPT_TIMEOUT)),
            upload: client(options, keys, (endpoint, UPLOAD_ATTEMPT_TIMEOUT)),
            links: client(options, keys, (endpoint, SMALL_ATTEMPT_TIMEOUT)),
            bucket: options.s3_workspace_bucket.clone(),
        }
    }

    /// Addresses handed out name this endpoint: the store as it is seen from outside.
    #[must_use]
    pub fn linked_at(self, options: &StoreOptions, keys: (&str, &str), endpoint: &str) -> Self {
        Self {
            links: client(options, keys, (endpoint, SMALL_ATTEMPT_TIMEOUT)),
            ..self
        }
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    pub(crate) async fn check(&self) -> Result<(), WorkspaceError> {
        let head = self.small.head_bucket().bucket(&self.bucket).send();
        match tokio::time::timeout(CHECK_TIMEOUT, head).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(storage("HeadBucket", error)),
            Err(_) => Err(WorkspaceError::Storage(
                "HeadBucket: no answer within 2 s".to_owned(),
            )),
        }
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Bytes>, WorkspaceError> {
        Ok(self.get_file(key).await?.map(|(content, _)| content))
    }

    /// The content as it comes, or nothing when there is no such object.
    pub(crate) async fn open(&self, key: &str) -> Result<Option<Content>, WorkspaceError> {
        match self.small.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => Ok(Some(Content::new(found.body))),
            Err(error) if error.as_service_error().is_some_and(is_missing_key) => Ok(None),
            Err(error) => Err(storage("GetObject", error)),
        }
    }

    /// The size, or nothing when there is no such object.
    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>, WorkspaceError> {
        match self
            .small
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
        {
            Ok(found) => Ok(u64::try_from(found.content_length().unwrap_or_default()).ok()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(aws_sdk_s3::operation::head_object::HeadObjectError::is_not_found) =>
            {
                Ok(None)
            }
            Err(error) => Err(storage("HeadObject", error)),
        }
    }

    /// Copies within the bucket, content type included; false when there is no such object.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<bool, WorkspaceError> {
        let source = format!("{}/{}", self.bucket, utf8_percent_encode(from, COPY_SOURCE));
        let copied = self
            .upload
            .copy_object()
            .bucket(&self.bucket)
            .copy_source(source)
            .key(to)
            .send()
            .await;
        match copied {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(false),
            Err(error) => Err(storage("CopyObject", error)),
        }
    }

    /// At most `limit` (up to 1000) objects whose key starts with `prefix` and comes after `after`.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Page, WorkspaceError> {
        let page = self
            .small
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(i32::from(limit))
            .send()
            .await
            .map_err(|error| storage("ListObjectsV2", error))?;
        Ok(Page {
            objects: page.contents().iter().filter_map(object).collect(),
            more: page.is_truncated().unwrap_or_default(),
        })
    }

    /// What the keys below `prefix` go on with up to the next slash, as whole prefixes.
    pub(crate) async fn dirs(&self, prefix: &str) -> Result<Vec<String>, WorkspaceError> {
        let mut found = vec![];
        let request = self.small.list_objects_v2().bucket(&self.bucket);
        let mut pages = request.prefix(prefix).delimiter("/").into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| storage("ListObjectsV2", error))?;
            let dirs = page.common_prefixes().iter();
            found.extend(dirs.filter_map(|dir| dir.prefix().map(str::to_owned)));
        }
        Ok(found)
    }

    pub(crate) async fn put(&self, key: &str, content: Bytes, mime_type: &str) -> Result<(), WorkspaceError> {
        self.upload
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .content_type(mime_type)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(content))
            .send()
            .await
            .map(drop)
            .map_err(|error| storage("PutObject", error))
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Object>, WorkspaceError> {
        let mut objects = vec![];
        let request = self.small.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| storage("ListObjectsV2", error))?;
            objects.extend(page.contents().iter().filter_map(object));
        }
        Ok(objects)
    }

    pub(crate) async fn delete(&self, keys: &[String]) -> Result<(), WorkspaceError> {
        for batch in keys.chunks(DELETE_BATCH) {
            let ids = batch
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build());
            let delete = ids
                .collect::<Result<Vec<_>, _>>()
                .and_then(|ids| Delete::builder().set_objects(Some(ids)).quiet(true).build())
                .map_err(|error| WorkspaceError::Storage(error.to_string()))?;
            let answer = self
                .small
                .delete_objects()
                .bucket(&self.bucket)
                .delete(delete)
                .send()
                .await;
            let answer = answer.map_err(|error| storage("DeleteObjects", error))?;
            if let Some(error) = answer.errors().first() {
                let (code, key) = (error.code().unwrap_or("error"), error.key().unwrap_or_default());
                return Err(WorkspaceError::Storage(format!(
                    "DeleteObjects: {code} for {key}"
                )));
            }
        }
        Ok(())
    }
}

fn client(
    options: &StoreOptions,
    (access_key, secret_key): (&str, &str),
    (endpoint, attempt_timeout): (&str, Duration),
) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(attempt_timeout)
        .build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::new(options.s3_region.clone()))
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "settings"))
        .force_path_style(options.s3_force_path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .timeout_config(timeouts)
        .build();
    Client::from_conf(config)
}

/// A missing bucket is a fault, not a missing file.
fn is_missing_key(error: &aws_sdk_s3::operation::get_object::GetObjectError) -> bool {
    error.is_no_such_key() || error.code() == Some("NoSuchKey")
}

fn object(found: &aws_sdk_s3::types::Object) -> Option<Object> {
    let at = found.last_modified()?;
    Some(Object {
        key: found.key()?.to_owned(),
        etag: found.e_tag().map(str::to_owned),
        size: u64::try_from(found.size().unwrap_or_default()).ok()?,
        modified: Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()?,
    })
}

/// A short text without request details: the operation and the store's code, or why there was no answer.
fn storage<E: ProvideErrorMetadata>(operation: &str, error: SdkError<E>) -> WorkspaceError {
    let why = match &error {
        SdkError::ServiceError(failed) => {
            let status = failed.raw().status().as_u16();
            format!("{} (HTTP {status})", failed.err().code().unwrap_or("error"))
        }
        SdkError::TimeoutError(_) => "no answer in time".to_owned(),
        SdkError::DispatchFailure(_) => "the endpoint cannot be reached".to_owned(),
        SdkError::ResponseError(_) => "the answer cannot be read".to_owned(),
        _ => "the request could not be made".to_owned(),
    };
    WorkspaceError::Storage(format!("{operation}: {why}"))
}
