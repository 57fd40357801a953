//! What goes to and comes from a tool.

use super::{S3Objects, is_missing_key, storage};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use domain::files::WorkspaceError;
use std::ops::Range;

/// Metadata of a file that is a program: `x-amz-meta-executable: true`. Copies keep it.
const EXECUTABLE: (&str, &str) = ("executable", "true");

impl S3Objects {
    /// Stores a file; gives back the store's mark of its content.
    pub(crate) async fn put_file(
        &self,
        key: &str,
        content: Bytes,
        (mime_type, executable): (&str, bool),
    ) -> Result<Option<String>, WorkspaceError> {
        let put = self.upload.put_object().bucket(&self.bucket).key(key);
        let mut put = put
            .content_type(mime_type)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(content));
        if executable {
            put = put.metadata(EXECUTABLE.0, EXECUTABLE.1);
        }
        let stored = put.send().await.map_err(|error| storage("PutObject", error))?;
        Ok(stored.e_tag().map(str::to_owned))
    }

    /// The content and whether it is a program, or nothing when there is no such object.
    pub(crate) async fn get_file(&self, key: &str) -> Result<Option<(Bytes, bool)>, WorkspaceError> {
        let found = match self.small.get_object().bucket(&self.bucket).key(key).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(is_missing_key) => return Ok(None),
            Err(error) => return Err(storage("GetObject", error)),
        };
        let said = found.metadata().and_then(|metadata| metadata.get(EXECUTABLE.0));
        let executable = said.is_some_and(|said| said == EXECUTABLE.1);
        let body = found.body.collect().await;
        let body = body.map_err(|error| WorkspaceError::Storage(format!("GetObject: body cut: {error}")))?;
        Ok(Some((body.into_bytes(), executable)))
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
}
