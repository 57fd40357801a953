//! A socket whose peer must take what is written to it.
//!
//! A response body that nobody polls cannot time itself out: when the peer stops reading, the server waits for the socket
//! to become writable, for ever. So the socket itself counts: a write that has waited for the limit without one byte of
//! progress fails, and the connection ends. A peer that vanished without a word is found by TCP's own probes.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// Silence before the first probe, and between probes.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// Bytes the system takes from us beyond what the peer's window lets it send. Without it megabytes per slow reader lie in
/// the system's buffers before a stall shows.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 * 1024;
/// A stall may not hold up a shutdown for longer.
const STALL_IN_SHUTDOWN: Duration = Duration::from_secs(3);

/// Options of a fresh connection.
pub(super) fn prepare(stream: &TcpStream, stall: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    {
        // Sent but never acknowledged: the peer is gone. Not below the probes, which it would cut short.
        let gone_after = stall.max(PROBE_AFTER + PROBE_EVERY * PROBES);
        socket.set_tcp_user_timeout(Some(gone_after))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _: Duration = stall;
    Ok(())
}

/// The socket with its count.
#[derive(Debug)]
pub(super) struct Stalling<T> {
    inner: T,
    limit: Duration,
    soft: CancellationToken,
    /// Since when a write waits; its timer.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<T> Stalling<T> {
    pub(super) const fn new(inner: T, limit: Duration, soft: CancellationToken) -> Self {
        Self {
            inner,
            limit,
            soft,
            waiting: None,
        }
    }

    fn counted<R>(&mut self, polled: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = if self.soft.is_cancelled() {
            self.limit.min(STALL_IN_SHUTDOWN)
        } else {
            self.limit
        };
        let (since, timer) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(tokio::time::sleep_until(now + limit)))
        });
        // The limit shrinks when a shutdown begins.
        if *since + limit < timer.deadline() {
            timer.as_mut().reset(*since + limit);
        }
        ready!(timer.as_mut().poll(cx));
        metrics::counter!("http_stalled_connections_total").increment(1);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalling<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, to)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalling<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.counted(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        self.counted(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_fails_after_the_limit() {
        let (near, _far) = duplex(10);
        let mut socket = Stalling::new(near, LIMIT, CancellationToken::new());
        let begun = Instant::now();
        let failed = socket.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_that_goes_on_reading_is_served() {
        let (near, mut far) = duplex(10);
        let mut socket = Stalling::new(near, LIMIT, CancellationToken::new());
        let writing = tokio::spawn(async move { socket.write_all(&[0; 100]).await });
        let mut taken = 0;
        while taken < 100 {
            tokio::time::sleep(LIMIT.mul_f64(0.9)).await;
            taken += far.read(&mut [0; 10]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_counts_for_less_once_the_process_shuts_down() {
        let (near, _far) = duplex(10);
        let soft = CancellationToken::new();
        let mut socket = Stalling::new(near, LIMIT, soft.clone());
        let begun = Instant::now();
        let bytes = [0; 100];
        let mut writing = Box::pin(socket.write_all(&bytes));
        tokio::select! {
            _ = &mut writing => panic!("nobody reads"),
            () = tokio::time::sleep(Duration::from_secs(1)) => soft.cancel(),
        }
        // The server's own look at the token polls the write again.
        assert!(writing.await.is_err());
        assert_eq!(begun.elapsed().as_secs(), STALL_IN_SHUTDOWN.as_secs());
    }
}
