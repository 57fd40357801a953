//! A forward proxy on loopback for programs that cannot take the guard in: a browser.
//!
//! It tunnels (CONNECT) and forwards plain HTTP to addresses that the guard allows, and answers 403 for others. It has no
//! password, since browsers cannot be given one on their command line: it listens on loopback only and lives as long as its
//! value. Whoever reaches it gets no further than the guard allows anybody.

use crate::guard::{Guard, Redirects, ResolveError, refusal_in};
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::{Client, ClientBuilder, Url};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Connections at a time; more wait.
const CONNECTIONS: usize = 256;
/// Pause after an accept failed, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Headers of one connection, not of the request.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    HeaderName::from_static("proxy-connection"),
];

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Answers the requests of one connection, whatever it runs over.
#[derive(Debug, Clone)]
pub struct ProxyService {
    guard: Guard,
    client: Client,
    refused: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// A proxy that listens; it ends, with all its connections, when the value is dropped.
#[derive(Debug)]
pub struct GuardedProxy {
    address: SocketAddr,
    service: ProxyService,
    _stop: DropGuard,
}

impl GuardedProxy {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free, or TLS cannot be set up.
    pub async fn start(guard: Guard) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let service = ProxyService::new(guard)?;
        let stop = service.stop.clone();
        tokio::spawn(accept(listener, service.clone()));
        Ok(Self {
            address,
            service,
            _stop: stop.drop_guard(),
        })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests refused so far, for telling a refusal apart from a page that is away.
    pub fn refused(&self) -> u64 {
        self.service.refused()
    }
}

async fn accept(listener: TcpListener, service: ProxyService) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            () = service.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            service.serve(stream).await;
            drop(permit);
        });
    }
}

impl ProxyService {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(guard: Guard) -> io::Result<Self> {
        let builder = ClientBuilder::new().connect_timeout(CONNECT_LIMIT);
        let client = guard.client(builder, Redirects::No).map_err(io::Error::other)?;
        Ok(Self {
            guard,
            client,
            refused: Arc::default(),
            stop: CancellationToken::new(),
        })
    }

    /// Requests refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Answers a connection until it, or the proxy, ends.
    pub async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let connection = hyper::server::conn::http1::Builder::new()
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let ended = tokio::select! {
            () = self.stop.cancelled() => return,
            ended = connection => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(error = %error, "a connection to the proxy broke off");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let answered = if request.method() == Method::CONNECT {
            self.tunnel(request).await
        } else {
            self.forward(request).await
        };
        answered.unwrap_or_else(|fault| {
            if fault == Fault::Refused {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            fault.answer()
        })
    }

    async fn tunnel(&self, request: Request<Incoming>) -> Result<Answer, Fault> {
        let target = request.uri().authority().ok_or(Fault::Malformed)?;
        let port = target.port_u16().ok_or(Fault::Malformed)?;
        let mut outer = self.dial(target.host(), port).await?;
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let Ok(inner) = hyper::upgrade::on(request).await else {
                return;
            };
            let mut inner = TokioIo::new(inner);
            tokio::select! {
                () = stop.cancelled() => {}
                // A side that goes away ends the tunnel; there is nobody to tell.
                _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
            }
        });
        Ok(Response::new(text("")))
    }

    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, Fault> {
        let found = self
            .guard
            .addresses(host, port)
            .await
            .map_err(|error| match error {
                ResolveError::Refused(_) => Fault::Refused,
                ResolveError::Lookup(_) => Fault::Away,
            })?;
        tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(found.as_slice()))
            .await
            .map_err(|_| Fault::Away)?
            .map_err(|_| Fault::Away)
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Answer, Fault> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string()).map_err(|_| Fault::Malformed)?;
        if url.scheme() != "http" {
            return Err(Fault::Malformed);
        }
        self.guard.check(&url).map_err(|_| Fault::Refused)?;
        let mut request = self
            .client
            .request(head.method, url)
            .headers(end_to_end(&head.headers));
        // A body of unknown length on a GET would be refused by some.
        if !body.is_end_stream() {
            request = request.body(reqwest::Body::wrap_stream(body.into_data_stream()));
        }
        let answer = request.send().await.map_err(|error| match refusal_in(&error) {
            Some(_) => Fault::Refused,
            None => Fault::Away,
        })?;
        let (status, headers) = (answer.status(), end_to_end(answer.headers()));
        let pieces = answer
            .bytes_stream()
            .map_ok(Frame::data)
            .map_err(io::Error::other);
        let mut answer = Response::new(StreamBody::new(pieces).boxed_unsync());
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refused,
    Malformed,
    Away,
}

impl Fault {
    fn answer(self) -> Answer {
        let (status, said) = match self {
            Self::Refused => (StatusCode::FORBIDDEN, "Address not allowed"),
            Self::Malformed => (StatusCode::BAD_REQUEST, "Not a request to a proxy"),
            Self::Away => (StatusCode::BAD_GATEWAY, "No connection"),
        };
        let mut answer = Response::new(text(said));
        *answer.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, plain);
        answer
    }
}

fn text(said: &'static str) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(Bytes::from_static(said.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Without what belongs to one connection, the headers named in `Connection` included.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    headers
        .iter()
        .filter(|(name, _)| !HOP_BY_HOP.contains(name) && !named.iter().any(|other| other == name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
