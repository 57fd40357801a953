//! Our accept loop over hyper's HTTP/1.
//!
//! It exists because `axum::serve` has no header-read timeout and its graceful shutdown waits for streams that never end.
//! Here a slow header is cut, a client that takes nothing any more is cut (see [`stall`]), buffers are small (10 KB
//! instead of 21 KB per idle stream), connections are counted, and shutdown has a soft stage (finish requests) and
//! a hard one (drop connections). Between the two, new connections still get an answer and are then closed: whoever asks
//! for readiness is told, and nobody who has not heard of the shutdown yet is refused.

mod stall;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use stall::Stalling;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Time for the whole header of a request to arrive; also ends idle keep-alive connections.
    pub header_timeout: Duration,
    /// Read and write buffer of a connection; also the longest header accepted (bytes).
    pub max_buf_bytes: usize,
    /// Open connections; further ones wait to be accepted.
    pub max_connections: usize,
    /// A connection whose client takes nothing of what is to be written for this long is closed.
    pub write_stall: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            max_buf_bytes: 16 * 1024,
            max_connections: 20_000,
            write_stall: Duration::from_secs(30),
        }
    }
}

/// Binds an address, trying again until `deadline` has passed.
pub async fn bind(addr: &str, deadline: Duration) -> io::Result<TcpListener> {
    let until = Instant::now() + deadline;
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Serves until `soft` fires and the requests then in work have ended, or until `hard` fires.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    soft: CancellationToken,
    hard: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    // Those that come after the shutdown began do not put its end off.
    let (tracker, late) = (TaskTracker::new(), TaskTracker::new());
    let idle = idle_after(&soft, &tracker);
    tokio::pin!(idle);
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, accept(&listener).await)
        };
        let (permit, stream) = tokio::select! {
            biased;
            () = hard.cancelled() => break,
            () = &mut idle => break,
            next = next => next,
        };
        let connection = connection(stream, router.clone(), limits, soft.clone());
        let hard = hard.clone();
        let of_its_time = if soft.is_cancelled() { &late } else { &tracker };
        of_its_time.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = hard.cancelled() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    late.close();
    tokio::select! {
        () = late.wait() => {}
        () = hard.cancelled() => {}
    }
}

/// Returns when nothing is in work any more after the soft token.
async fn idle_after(soft: &CancellationToken, tracker: &TaskTracker) {
    soft.cancelled().await;
    tracker.close();
    tracker.wait().await;
}

/// Accepts one connection; out-of-descriptors and the like are waited out, not fatal.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(error = %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, limits: HttpLimits, soft: CancellationToken) {
    if let Err(error) = stall::prepare(&stream, limits.write_stall) {
        tracing::debug!(error = %error, "socket options not set");
    }
    let stream = Stalling::new(stream, limits.write_stall, soft.clone());
    // One that comes after the shutdown began gets one answer.
    let late = soft.is_cancelled();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.max_buf_bytes)
        .keep_alive(!late);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = soft.cancelled(), if !late => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start(
        router: Router,
        limits: HttpLimits,
    ) -> (std::net::SocketAddr, CancellationToken, CancellationToken) {
        let listener = bind("127.0.0.1:0", Duration::ZERO).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(serve(listener, router, limits, soft.clone(), hard.clone()));
        (addr, soft, hard)
    }

    #[tokio::test]
    async fn a_header_that_never_ends_is_cut() {
        let limits = HttpLimits {
            header_timeout: Duration::from_millis(100),
            ..HttpLimits::default()
        };
        let (addr, _soft, _hard) = start(Router::new(), limits).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        let mut answer = vec![];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection is closed");
    }

    #[tokio::test]
    async fn a_request_in_work_is_finished_after_the_soft_token() {
        let gate = CancellationToken::new();
        let wait = gate.clone();
        let router = Router::new().route(
            "/",
            get(move || async move {
                wait.cancelled().await;
                "done"
            }),
        );
        let (addr, soft, _hard) = start(router, HttpLimits::default()).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        soft.cancel();
        gate.cancel();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_and_others_are_not() {
        let endless = || {
            let chunk = Ok::<_, std::convert::Infallible>(vec![b'x'; 64 * 1024]);
            axum::body::Body::from_stream(futures::stream::repeat_with(move || chunk.clone()))
        };
        let router = Router::new().route("/", get(async move || endless()));
        let limits = HttpLimits {
            write_stall: Duration::from_millis(300),
            ..HttpLimits::default()
        };
        let (addr, _soft, _hard) = start(router, limits).await;
        let ask = async || {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            stream
        };
        let (mut deaf, mut reader) = (ask().await, ask().await);
        let mut buffer = vec![0; 64 * 1024];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            assert_ne!(reader.read(&mut buffer).await.unwrap(), 0, "who reads is served");
        }
        // What the system holds for the deaf one comes to an end.
        let rest = async { while !matches!(deaf.read(&mut buffer).await, Ok(0) | Err(_)) {} };
        tokio::time::timeout(Duration::from_secs(10), rest)
            .await
            .expect("the deaf one is cut");
    }

    #[tokio::test]
    async fn new_connections_are_answered_while_old_ones_end() {
        let gate = CancellationToken::new();
        let wait = gate.clone();
        let router = Router::new()
            .route("/", get(async move || wait.cancelled().await))
            .route("/ready", get(async || "no"));
        let (addr, soft, _hard) = start(router, HttpLimits::default()).await;
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(addr).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            io::Result::Ok(stream)
        };
        let mut old = ask("/").await.unwrap();
        let mut answer = String::new();
        let mut before = ask("/ready").await.unwrap();
        before.read_exact(&mut [0; 12]).await.unwrap();
        soft.cancel();
        ask("/ready")
            .await
            .unwrap()
            .read_to_string(&mut answer)
            .await
            .unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("no"),
            "{answer}"
        );
        gate.cancel();
        answer.clear();
        old.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Nothing is in work any more: the listener closes.
        let closed = async {
            while ask("/ready").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .expect("the listener closes");
    }
}
