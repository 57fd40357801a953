//! What is left of a request body once the answer is known.
//!
//! Closing a connection on which the client still sends shows it a broken pipe instead of the refusal. So a body that
//! nobody read to its end (too large, no token, unknown path) is read and thrown away within [`MAX_DRAINED_BYTES`] and
//! [`MAX_DRAIN`]: on the public surface while the answer is already on its way, so that nobody waits for bytes that do
//! not matter.

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, header};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes read in vain at most; a body that announces more is not read at all.
const MAX_DRAINED_BYTES: usize = 64 * 1024 * 1024;
/// How long a slow sender may hold up its own answer.
const MAX_DRAIN: Duration = Duration::from_secs(5);

/// The unread rest of a body, shared with the handler that may read it.
#[derive(Debug)]
pub struct Leftover(Arc<Mutex<BodyDataStream>>);

/// The request as it was, and a hold on its body.
pub fn hold(request: Request) -> (Request, Option<Leftover>) {
    if announced(request.headers()).is_some_and(|bytes| bytes == 0 || bytes > MAX_DRAINED_BYTES) {
        return (request, None);
    }
    let (parts, body) = request.into_parts();
    let shared = Arc::new(Mutex::new(body.into_data_stream()));
    let read = shared.clone();
    let stream = futures::stream::poll_fn(move |context| lock(&read).poll_next_unpin(context));
    let request = Request::from_parts(parts, Body::from_stream(stream));
    (request, Some(Leftover(shared)))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH);
    length.map_or_else(
        || (!headers.contains_key(header::TRANSFER_ENCODING)).then_some(0),
        |value| value.to_str().ok()?.parse().ok(),
    )
}

fn lock(body: &Mutex<BodyDataStream>) -> MutexGuard<'_, BodyDataStream> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leftover {
    /// As [`Leftover::drain`], beside the answer; the connection stays until it is done.
    pub fn drain_aside(self) {
        let mut rest = Box::pin(self.drain());
        if (&mut rest).now_or_never().is_none() {
            tokio::spawn(rest);
        }
    }

    /// Reads on until the end, a fault or a bound.
    pub async fn drain(self) {
        let rest = async {
            let mut drained = 0;
            while let Some(Ok(chunk)) = poll_fn(|context| lock(&self.0).poll_next_unpin(context)).await {
                drained += chunk.len();
                if drained > MAX_DRAINED_BYTES {
                    break;
                }
            }
        };
        if tokio::time::timeout(MAX_DRAIN, rest).await.is_err() {
            tracing::debug!("gave up on the rest of a request body");
        }
    }
}
