//! Objects in S3.

use crate::objects::Object;
use crate::options::StoreOptions;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier};
use bytes::Bytes;
use domain::files::WorkspaceError;
use jiff::Timestamp;
use std::ops::Range;
use std::time::Duration;

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

/// One bucket. Clones share connections.
#[derive(Debug, Clone)]
pub struct S3Objects {
    small: Client,
    upload: Client,
    bucket: String,
}

impl S3Objects {
    /// Makes the clients; connects only when used.
    pub fn new(options: &StoreOptions, (access_key, secret_key): (&str, &str)) -> Self {
        let client = |attempt_timeout| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(attempt_timeout)
                .build();
            let config = aws_sdk_s3::Config::builder()
                .behavior_version(BehaviorVersion::v2026_01_12())
                .endpoint_url(&options.s3_endpoint)
                .region(Region::new(options.s3_region.clone()))
                .credentials_provider(Credentials::new(access_key, secret_key, None, None, "settings"))
                .force_path_style(options.s3_force_path_style)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
                .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
                .timeout_config(timeouts)
                .build();
            Client::from_conf(config)
        };
        Self {
            small: client(SMALL_ATTEMPT_TIMEOUT),
            upload: client(UPLOAD_ATTEMPT_TIMEOUT),
            bucket: options.s3_workspace_bucket.clone(),
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
        let found = match self.small.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(is_missing_key) => return Ok(None),
            Err(error) => return Err(storage("GetObject", error)),
        };
        let body = found.body.collect().await;
        let body = body.map_err(|error| WorkspaceError::Storage(format!("GetObject: body cut: {error}")))?;
        Ok(Some(body.into_bytes()))
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

/// For what goes to and comes from a tool's pod.
impl S3Objects {
    /// Stores an object; gives back the store's mark of its content.
    pub(crate) async fn put_marked(
        &self,
        key: &str,
        content: Bytes,
        mime_type: &str,
    ) -> Result<Option<String>, WorkspaceError> {
        let put = self.upload.put_object().bucket(&self.bucket).key(key);
        let put = put
            .content_type(mime_type)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(content));
        let stored = put.send().await.map_err(|error| storage("PutObject", error))?;
        Ok(stored.e_tag().map(str::to_owned))
    }

    /// A part of an object, shorter where it ends; nothing when there is no such object.
    pub(crate) async fn range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>, WorkspaceError> {
        let last = range.end.saturating_sub(1);
        let get = self.small.get_object().bucket(&self.bucket).key(key);
        let found = match get.range(format!("bytes={}-{last}", range.start)).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(is_missing_key) => return Ok(None),
            Err(error) if error.code() == Some("InvalidRange") => return Ok(Some(Bytes::new())),
            Err(error) => return Err(storage("GetObject", error)),
        };
        let body = found.body.collect().await;
        let body = body.map_err(|error| WorkspaceError::Storage(format!("GetObject: body cut: {error}")))?;
        Ok(Some(body.into_bytes()))
    }

    /// A URL that reads this object, valid from now.
    pub(crate) async fn sign_get(&self, key: &str, valid_for: Duration) -> Result<String, WorkspaceError> {
        let get = self.small.get_object().bucket(&self.bucket).key(key);
        let signed = get.presigned(presigning(valid_for)?).await;
        let signed = signed.map_err(|error| storage("presign", error))?;
        Ok(signed.uri().to_owned())
    }

    /// A URL that writes this object, valid from now. `once`: with the header `If-None-Match: *`, which must be sent.
    pub(crate) async fn sign_put(
        &self,
        key: &str,
        valid_for: Duration,
        once: bool,
    ) -> Result<String, WorkspaceError> {
        let put = self.small.put_object().bucket(&self.bucket).key(key);
        let put = if once { put.if_none_match("*") } else { put };
        let signed = put.presigned(presigning(valid_for)?).await;
        let signed = signed.map_err(|error| storage("presign", error))?;
        Ok(signed.uri().to_owned())
    }
}

fn presigning(valid_for: Duration) -> Result<PresigningConfig, WorkspaceError> {
    PresigningConfig::expires_in(valid_for)
        .map_err(|error| WorkspaceError::Storage(format!("presign: {error}")))
}
