//! Messages to and from a browser: a pipe to a local one, a WebSocket to a remote one. Both carry one JSON text a message.

use futures::channel::mpsc;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::task::AbortOnDropHandle;

/// Largest message of a browser: a screenshot as text fits well.
pub(super) const LARGEST_MESSAGE: usize = 32 * 1024 * 1024;
/// A browser that is not ours takes its leave within this time.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Messages that wait for a slow reader.
const WAITING: usize = 64;

/// Both directions; the incoming one ends with the browser.
#[derive(Debug)]
pub(super) struct Wire {
    pub out: mpsc::Sender<String>,
    pub incoming: mpsc::Receiver<io::Result<String>>,
}

/// Over a program's standard input and output, each message ended by a NUL.
pub(super) fn pipe(
    stdout: impl AsyncRead + Send + Unpin + 'static,
    mut stdin: impl AsyncWrite + Send + Unpin + 'static,
) -> Wire {
    let (out, mut to_send) = mpsc::channel::<String>(WAITING);
    let (mut received, incoming) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        while let Some(text) = to_send.next().await {
            let sent = async {
                stdin.write_all(text.as_bytes()).await?;
                stdin.write_all(&[0]).await?;
                stdin.flush().await
            };
            if sent.await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut reader = BufReader::new(stdout);
        while let Some(message) = next_message(&mut reader).await {
            if received.send(message).await.is_err() {
                return;
            }
        }
    });
    Wire { out, incoming }
}

/// The next message of bounded length; nothing at the end.
async fn next_message(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<io::Result<String>> {
    let mut message = Vec::new();
    loop {
        let (used, ended) = match reader.fill_buf().await {
            Ok([]) => return None,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == 0);
                message.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                (end.map_or(bytes.len(), |end| end + 1), end.is_some())
            }
            Err(error) => return Some(Err(error)),
        };
        reader.consume(used);
        if message.len() > LARGEST_MESSAGE {
            return Some(Err(io::Error::other("a message of the browser is too large")));
        }
        if ended {
            return Some(String::from_utf8(message).map_err(io::Error::other));
        }
    }
}

/// Over a WebSocket.
pub(super) async fn socket(url: &str) -> Result<Wire, String> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE));
    let connected = tokio_tungstenite::connect_async_with_config(url, Some(config), true).await;
    let (socket, _) = connected.map_err(|error| error.to_string())?;
    let (sink, stream) = socket.split();
    Ok(pumped(sink, stream))
}

fn pumped<S, R, E>(mut sink: S, mut stream: R) -> Wire
where
    S: Sink<Message, Error = E> + Send + Unpin + 'static,
    R: Stream<Item = Result<Message, E>> + Send + Unpin + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let (out, mut to_send) = mpsc::channel::<String>(WAITING);
    let (mut received, incoming) = mpsc::channel(WAITING);
    let reading = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(message) = stream.next().await {
            let text = match message {
                Ok(Message::Text(text)) => Ok(text.to_string()),
                Ok(Message::Close(_)) => return,
                Ok(_) => continue,
                Err(error) => Err(io::Error::other(error)),
            };
            if received.send(text).await.is_err() {
                return;
            }
        }
    }));
    tokio::spawn(async move {
        while let Some(text) = to_send.next().await {
            if sink.send(Message::text(text)).await.is_err() {
                return;
            }
        }
        // The browser is not ours: it may only know that nobody listens any more. One that does not close in turn is left.
        let closed = async { sink.close().await.is_ok() && reading.await.is_ok() };
        if timeout(CLOSE_LIMIT, closed).await != Ok(true) {
            tracing::debug!("the browser was gone already, or did not take its leave");
        }
    });
    Wire { out, incoming }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_of_a_pipe_are_cut_at_nul_and_bounded() {
        let mut short: &[u8] = b"{\"a\":1}\0{}\0rest";
        assert_eq!(next_message(&mut short).await.unwrap().unwrap(), "{\"a\":1}");
        assert_eq!(next_message(&mut short).await.unwrap().unwrap(), "{}");
        assert!(next_message(&mut short).await.is_none());
        let endless = vec![b'x'; LARGEST_MESSAGE + 1];
        assert!(next_message(&mut endless.as_slice()).await.unwrap().is_err());
    }
}
