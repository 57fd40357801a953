//! The socket: connections, rights, faults, and the way to each verb.

use super::faults::Fault;
use super::request::{Call, Place};
use super::rights::User;
use super::status::Status;
use super::verbs::{self, Done, Spot};
use super::{Cluster, clock, discovery, locked, logs, protobuf, watch};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinHandle;

/// Who comes by this way is the worker: kubectl sends no token without TLS.
pub(super) const AS_WORKER: &str = "/as-worker";
/// The worker's token.
pub(super) const TOKEN: &str = "worker-token";

/// A listening server; dropped, it closes every connection.
#[derive(Debug)]
pub(super) struct Server {
    gone: Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Must be called inside the runtime.
    pub(super) async fn start(cluster: Arc<Cluster>, port: u16) -> std::io::Result<Self> {
        let listener = crate::port::listen(port).await?;
        let (gone, closing) = tokio::sync::watch::channel(false);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let nodelay = stream.set_nodelay(true);
                debug_assert!(nodelay.is_ok());
                tokio::spawn(connection(Arc::clone(&cluster), stream, closing.clone()));
            }
        });
        Ok(Self { gone, accepting })
    }

    pub(super) async fn stop(self) {
        self.gone.send_replace(true);
        self.accepting.abort();
        // Aborted on purpose; the listener is closed when it is over.
        drop(self.accepting.await);
        self.gone.closed().await;
    }
}

async fn connection(cluster: Arc<Cluster>, stream: TcpStream, mut closing: Receiver<bool>) {
    let service =
        service_fn(|request: Request<Incoming>| answer(Arc::clone(&cluster), request.map(Body::new)));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that goes away is no fault of ours.
        ended = connection => drop(ended),
        stopped = closing.changed() => drop(stopped),
    }
}

/// The connection is to be closed.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut on demand")
    }
}

impl std::error::Error for Cut {}

async fn answer(cluster: Arc<Cluster>, request: Request<Body>) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let as_worker = path.strip_prefix(AS_WORKER);
    let call = Call::parse(
        &parts.method,
        as_worker.unwrap_or(path),
        parts.uri.query().unwrap_or_default(),
    );
    let faults = {
        let mut all = locked(&cluster.faults);
        all.count(&call);
        all.take(&call)
    };
    let body = to_bytes(body, 4 << 20).await.map_err(|_| Cut)?;
    for fault in &faults {
        match fault {
            Fault::Slow(by) => tokio::time::sleep(*by).await,
            Fault::CutBefore => return Err(Cut),
            Fault::Answer(status) => return Ok(failed(&cluster, status)),
            _ => {}
        }
    }
    let user = match parts
        .headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str())
    {
        None if as_worker.is_some() => User::Worker,
        None => User::Admin,
        Some(Ok(given)) if given == format!("Bearer {TOKEN}") => User::Worker,
        Some(_) => return Ok(failed(&cluster, &Status::unauthorized())),
    };
    let answer = dispatch(&cluster, user, &call, (&body, faults.clone()));
    for fault in faults {
        match fault {
            Fault::CutAfter => return Err(Cut),
            Fault::AnswerAfter(status) => return Ok(failed(&cluster, &status)),
            _ => {}
        }
    }
    Ok(answer.unwrap_or_else(|status| failed(&cluster, &status)))
}

fn dispatch(
    cluster: &Arc<Cluster>,
    user: User,
    call: &Call,
    (body, faults): (&Bytes, Vec<Fault>),
) -> Result<Response<Body>, Status> {
    if let Some(target) = call.target() {
        locked(&cluster.role).check(user, call.verb, &target)?;
    }
    let done = match &call.place {
        Place::Other(path) => return other(cluster, path),
        Place::Unknown { .. } => return Err(Status::no_such_path()),
        Place::Review => {
            let asked = protobuf::review(body).map_or_else(|| serde_json::from_slice(body), Ok);
            let asked = asked.map_err(|error| Status::bad_request(error.to_string()))?;
            Done {
                code: 201,
                body: locked(&cluster.role).review(user, &asked),
                warnings: Vec::new(),
            }
        }
        Place::Objects {
            kind,
            namespace,
            name,
            sub,
        } => {
            let spot = Spot {
                kind: *kind,
                namespace,
                name,
            };
            match (call.verb, sub.as_str()) {
                ("create", "") => verbs::create(cluster, user, call, spot, body)?,
                ("get", "") => verbs::get(cluster, spot)?,
                ("list", "") => verbs::list(cluster, call, spot),
                ("delete", "") => verbs::delete(cluster, call, spot, body)?,
                ("watch", "") => {
                    return Ok(stream(
                        cluster,
                        watch::start(cluster, call, spot, faults)?,
                        "application/json",
                    ));
                }
                ("get", "log") => {
                    return Ok(stream(
                        cluster,
                        logs::start(cluster, call, spot, faults)?,
                        "text/plain",
                    ));
                }
                _ => {
                    let message = "the server does not allow this method on the requested resource";
                    return Err(Status::new(405, "MethodNotAllowed", message));
                }
            }
        }
    };
    Ok(object(cluster, done))
}

fn other(cluster: &Cluster, path: &str) -> Result<Response<Body>, Status> {
    match path {
        "/healthz" | "/livez" | "/readyz" => Ok(stream(cluster, watch::whole("ok".to_owned()), "text/plain")),
        _ => {
            let body = discovery::answer(path).ok_or_else(Status::no_such_path)?;
            Ok(object(cluster, Done::ok(body)))
        }
    }
}

fn builder(cluster: &Cluster, code: u16) -> axum::http::response::Builder {
    let skew = jiff::SignedDuration::from_secs(cluster.policy().skew_seconds);
    Response::builder()
        .status(code)
        .header(header::CACHE_CONTROL, "no-cache, private")
        .header(header::DATE, clock::http_date(clock::now() + skew))
}

fn object(cluster: &Cluster, done: Done) -> Response<Body> {
    let mut response = builder(cluster, done.code).header(header::CONTENT_TYPE, "application/json");
    for warning in done.warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        response = response.header(header::WARNING, format!("299 - \"{text}\""));
    }
    let body = Body::from(done.body.to_string());
    response.body(body).expect("the parts are valid")
}

fn stream(cluster: &Cluster, body: Body, kind: &str) -> Response<Body> {
    let response = builder(cluster, 200).header(header::CONTENT_TYPE, kind);
    response.body(body).expect("the parts are valid")
}

fn failed(cluster: &Cluster, status: &Status) -> Response<Body> {
    let mut response = builder(cluster, status.code).header(header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = status.retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    let body = Body::from(status.body().to_string());
    response.body(body).expect("the parts are valid")
}
