//! A listener that counts, and resolvers that answer as a test wants.

use axum::Router;
use futures::future::BoxFuture;
use outbound::{Guard, Looked, Lookup, Redirects, Refused, refusal_in};
use reqwest::{Client, Response, Url};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

/// A listener on every address of this machine; counts connections and closes them.
pub(crate) struct Counting {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
}

impl Counting {
    pub(crate) async fn start() -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let (first, second) = (bind("0.0.0.0:0").await.unwrap(), &connections);
        let port = first.local_addr().unwrap().port();
        count(first, second.clone());
        // Both stacks, where the machine has them.
        if let Some(other) = bind(&format!("[::1]:{port}")).await {
            count(other, second.clone());
        }
        Self { port, connections }
    }

    pub(crate) fn seen(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn bind(address: &str) -> Option<TcpListener> {
    TcpListener::bind(address).await.ok()
}

fn count(listener: TcpListener, connections: Arc<AtomicUsize>) {
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            connections.fetch_add(1, Ordering::SeqCst);
        }
    });
}

/// Serves a router on a free port of 127.0.0.1.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Gives the answers in turn, the last one for ever, and counts how often it was asked.
#[derive(Debug)]
pub(crate) struct InTurn {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl InTurn {
    pub(crate) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parsed = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self {
            answers: answers.iter().map(parsed).collect(),
            asked: AtomicUsize::new(0),
        })
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Lookup for InTurn {
    fn addresses(&self, _: String) -> BoxFuture<'static, Looked> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let last = self.answers.len() - 1;
        let answer = self.answers[turn.min(last)].clone();
        Box::pin(async move { Ok(answer) })
    }
}

pub(crate) fn client(guard: &Guard) -> Client {
    guard.client(Client::builder(), Redirects::Checked).unwrap()
}

/// A request as the tools make it: judged first, then sent by a guarded client.
pub(crate) async fn get(guard: &Guard, url: &str) -> Result<Response, Refused> {
    let url = Url::parse(url).unwrap();
    guard.check(&url)?;
    let sent = client(guard).get(url.clone()).send().await;
    sent.map_err(|error| refusal_in(&error).unwrap_or_else(|| panic!("{url} was dialled: {error:?}")))
}
