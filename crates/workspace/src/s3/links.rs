//! Addresses of objects that say by themselves what may be done with them.

use super::{S3Objects, storage};
use aws_sdk_s3::presigning::PresigningConfig;
use domain::files::WorkspaceError;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

impl S3Objects {
    /// An address that gives the object to whoever has it, for as long as said; a browser keeps it under `name`.
    pub(crate) async fn link(
        &self,
        key: &str,
        valid_for: Duration,
        name: &str,
    ) -> Result<String, WorkspaceError> {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let disposition = format!("attachment; filename*=UTF-8''{name}");
        let signed = self
            .links
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .response_content_disposition(disposition)
            .presigned(presigning(valid_for)?)
            .await;
        let signed = signed.map_err(|error| storage("presign", error))?;
        Ok(signed.uri().to_owned())
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
