//! Reads an answer's body with a limit on size and time.

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use tokio::time::Instant;

/// A body as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub bytes: Bytes,
    /// There was more than the limit.
    pub truncated: bool,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("no end of the answer in time")]
    Slow,
    #[error("the answer broke off: {0}")]
    Broken(#[source] reqwest::Error),
}

/// Reads at most `max_bytes`; what is beyond is left unread.
///
/// # Errors
/// The connection broke, or `until` came first.
pub async fn read_body(mut response: Response, max_bytes: usize, until: Instant) -> Result<Body, BodyError> {
    let mut bytes = BytesMut::new();
    loop {
        let chunk = tokio::time::timeout_at(until, response.chunk())
            .await
            .map_err(|_| BodyError::Slow)?
            .map_err(BodyError::Broken)?;
        let Some(chunk) = chunk else {
            return Ok(Body {
                bytes: bytes.freeze(),
                truncated: false,
            });
        };
        let room = max_bytes.saturating_sub(bytes.len());
        bytes.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room {
            return Ok(Body {
                bytes: bytes.freeze(),
                truncated: true,
            });
        }
    }
}
