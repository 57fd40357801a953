//! The HTTP server of a store.

use crate::store::Store;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that has not sent its request's head by then is dropped.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests under way get this long to end at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (for example no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The one pair of keys a server accepts.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// A running server; stops accepting when dropped.
#[derive(Debug)]
pub struct ServerHandle {
    addr: SocketAddr,
    stop: CancellationToken,
    /// Fired when the grace is over: connections are cut.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl ServerHandle {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops accepting, lets requests under way end for 5 s and closes the connections.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves the store on `listener` until the handle is shut down or dropped. Requests must be signed.
///
/// # Errors
/// When the listener has no local address.
pub async fn serve(
    store: Store,
    listener: TcpListener,
    credentials: Credentials,
) -> io::Result<ServerHandle> {
    let addr = listener.local_addr()?;
    let mut builder = S3ServiceBuilder::new(store);
    builder.set_auth(SimpleAuth::from_single(
        credentials.access_key,
        credentials.secret_key,
    ));
    let service = builder.build();
    let stop = CancellationToken::new();
    let handle = ServerHandle {
        addr,
        stop,
        cut: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let (stop, cut, tasks) = (handle.stop.clone(), handle.cut.clone(), handle.tasks.clone());
    handle.tasks.spawn(async move {
        let connect = |stream| {
            let (service, stop, cut) = (service.clone(), stop.clone(), cut.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = connection(stream, service, stop) => {}
                }
            });
        };
        accept(listener, &stop, connect).await;
    });
    Ok(handle)
}

async fn accept(listener: TcpListener, stop: &CancellationToken, connect: impl Fn(TcpStream)) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => connect(stream),
            Err(error) => {
                tracing::warn!(%error, "object store: cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, service: S3Service, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "object store: cannot set TCP_NODELAY");
    }
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "object store: connection ended early");
    }
}
