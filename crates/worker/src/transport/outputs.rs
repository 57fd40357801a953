//! What the tool printed: the head for the result, any part for the live log.

use super::{Keys, STDERR, STDOUT, Transport, is_uid};
use crate::sandbox::text;
use agent::ports::{SandboxError, SandboxRequest};
use bytes::Bytes;
use std::ops::Range;
use toolbox::live::Channel;
use toolbox::wire::Stream;

/// Kept of each stream.
const KEPT_BYTES: usize = 1024 * 1024;
/// Read beyond it, so that a secret that begins before the cut is seen whole.
const BEYOND_BYTES: usize = 64 * 1024;

fn name(channel: Channel) -> &'static str {
    match channel {
        Channel::Stdout => STDOUT,
        Channel::Stderr => STDERR,
    }
}

impl Transport {
    /// A part of what a Job's supervisor stored of an output; shorter where that ends.
    ///
    /// # Errors
    /// As in [`Transport::prepare`].
    pub async fn output(
        &self,
        request: &SandboxRequest,
        job_uid: &str,
        channel: Channel,
        range: Range<u64>,
    ) -> Result<Bytes, SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        if range.is_empty() || !is_uid(job_uid) {
            return Ok(Bytes::new());
        }
        let key = keys.of_job(request.step_id, job_uid, name(channel));
        Ok(store.range(&key, range).await?.unwrap_or_default())
    }

    /// The head as text, and whether it is all.
    pub(super) async fn head(
        &self,
        request: &SandboxRequest,
        (job_uid, channel): (&str, Channel),
        stream: &Stream,
    ) -> Result<(String, bool), SandboxError> {
        if stream.bytes == 0 {
            return Ok((String::new(), false));
        }
        let most = (KEPT_BYTES + BEYOND_BYTES) as u64;
        let bytes = self
            .output(request, job_uid, channel, 0..most.min(stream.bytes))
            .await?;
        let mut chunks = self.redactor.chunks();
        let mut kept = chunks.push(&bytes);
        // What may be the beginning of a secret is not shown when it goes on where we do not look.
        if stream.bytes <= most {
            kept.extend(chunks.finish());
        }
        let more = kept.len() > KEPT_BYTES || stream.bytes > bytes.len() as u64;
        kept.truncate(KEPT_BYTES);
        let (text, cut) = text(kept);
        Ok((text, cut || more))
    }
}
