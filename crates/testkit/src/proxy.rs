//! A TCP proxy that breaks connections on command.
//!
//! It knows no protocol. A "reply" is the first thing the server sends on a connection after the client
//! sent something, so replies can be dropped only where the server does not speak on its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::background;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Stall,
    Cut,
    Sever,
    Over,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    /// Connections with a smaller number are held for ever.
    held_below: AtomicU64,
    /// A connection that sends this text is held for ever.
    trap: Mutex<Option<Vec<u8>>>,
    /// What the next request must contain to lose its reply; `Some("")` = any request.
    doomed: Mutex<Option<Vec<u8>>>,
    /// 0 = never.
    cut_every: AtomicU64,
    accepted: AtomicU64,
    cuts: AtomicU64,
}

/// The proxy; forwards until told otherwise. Dropped = all connections cut, port closed.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    port: u16,
    /// Changes each time the acceptor has put a mode into force.
    applied: watch::Receiver<Mode>,
}

impl FaultProxy {
    /// In front of 127.0.0.1:`target_port`, on a port of its own.
    pub async fn start(target_port: u16) -> Self {
        let listener = bind(crate::free_port())
            .await
            .expect("the port was free a moment ago");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            target: Mutex::new(local(target_port)),
            mode: watch::Sender::new(Mode::Pass),
            held_below: AtomicU64::new(0),
            trap: Mutex::new(None),
            doomed: Mutex::new(None),
            cut_every: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        });
        let (report, applied) = watch::channel(Mode::Pass);
        background::handle().spawn(accept(Arc::clone(&shared), port, listener, report));
        Self {
            shared,
            port,
            applied,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections and refuses new ones; in force when this returns.
    pub fn cut(&self) {
        self.enter(Mode::Cut);
    }

    /// Closes all connections, and new ones at once. Unlike [`FaultProxy::cut`] it keeps its port, so that on a busy machine
    /// nobody else can take it meanwhile.
    pub fn sever(&self) {
        self.enter(Mode::Sever);
    }

    /// Connections stay open and new ones are accepted, but nothing is forwarded (a half-open peer).
    pub fn stall(&self) {
        self.enter(Mode::Stall);
    }

    /// From now on the present connections stay open and carry nothing, for ever; new ones work. What a failover behind
    /// a router without connection tracking looks like.
    pub fn hold_present(&self) {
        let next = self.shared.accepted.load(Ordering::SeqCst);
        self.shared.held_below.store(next, Ordering::SeqCst);
    }

    /// Every connection that sends `text` from now on stays open and carries nothing more, for ever.
    pub fn hold_senders_of(&self, text: &str) {
        *self.shared.trap.lock().expect("not poisoned") = Some(text.as_bytes().to_vec());
    }

    /// New connections go to 127.0.0.1:`port`; the present ones are cut.
    pub fn retarget(&self, port: u16) {
        *self.shared.target.lock().expect("not poisoned") = local(port);
        self.cut();
        self.enter(Mode::Pass);
    }

    /// Forwards again (what a stall held back too) and ends every other fault, except for connections that are held.
    pub fn restore(&self) {
        *self.shared.doomed.lock().expect("not poisoned") = None;
        *self.shared.trap.lock().expect("not poisoned") = None;
        self.shared.cut_every.store(0, Ordering::SeqCst);
        self.enter(Mode::Pass);
    }

    /// The next request is forwarded; when its reply comes, it is thrown away and the connection closed.
    pub fn drop_next_reply(&self) {
        self.drop_reply_to("");
    }

    /// Like [`FaultProxy::drop_next_reply`], for the next request whose bytes contain `text`.
    pub fn drop_reply_to(&self, text: &str) {
        *self.shared.doomed.lock().expect("not poisoned") = Some(text.as_bytes().to_vec());
    }

    /// True once a reply asked for with `drop_…` has found its request.
    pub fn reply_dropping_is_used(&self) -> bool {
        self.shared.doomed.lock().expect("not poisoned").is_none()
    }

    /// From now on every connection is cut after this many bytes (both directions together). 0 = off.
    pub fn cut_every(&self, bytes: u64) {
        self.shared.cut_every.store(bytes, Ordering::SeqCst);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections cut by `drop_…` or `cut_every` so far.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    fn enter(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        for _ in 0..5_000 {
            if *self.applied.borrow() == mode {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the proxy did not reach {mode:?}");
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.mode.send_replace(Mode::Over);
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

async fn accept(shared: Arc<Shared>, port: u16, listener: TcpListener, report: watch::Sender<Mode>) {
    let mut modes = shared.mode.subscribe();
    let mut open = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let mode = *modes.borrow_and_update();
        if matches!(mode, Mode::Cut | Mode::Over) {
            open = None;
            connections.shutdown().await;
        } else if open.is_none() {
            open = Some(
                bind(port)
                    .await
                    .expect("the proxy's port was taken while it was cut"),
            );
        }
        if mode == Mode::Sever {
            connections.shutdown().await;
        }
        report.send_replace(mode);
        if mode == Mode::Over {
            return;
        }
        tokio::select! {
            changed = modes.changed() => changed.expect("the sender lives in `shared`"),
            client = next_client(open.as_ref()) => {
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                if mode == Mode::Sever {
                    continue;
                }
                connections.spawn(serve(Arc::clone(&shared), client, number));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn next_client(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => loop {
            if let Ok((client, _)) = listener.accept().await {
                return client;
            }
        },
        None => std::future::pending().await,
    }
}

/// What both directions of one connection share.
struct Link {
    shared: Arc<Shared>,
    number: u64,
    bytes: AtomicU64,
    doomed: AtomicBool,
    trapped: AtomicBool,
}

async fn serve(shared: Arc<Shared>, client: TcpStream, number: u64) {
    let mut modes = shared.mode.subscribe();
    if modes.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
        return;
    }
    let target = *shared.target.lock().expect("not poisoned");
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let link = Link {
        shared,
        number,
        bytes: AtomicU64::new(0),
        doomed: AtomicBool::new(false),
        trapped: AtomicBool::new(false),
    };
    for stream in [&client, &server] {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("testkit: proxy: {error}");
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = copy(&link, Side::Client, from_client, to_server);
    let down = copy(&link, Side::Server, from_server, to_client);
    // The first fault ends both directions; an orderly end lets the other side finish.
    tokio::pin!(up, down);
    let first = tokio::select! {
        outcome = &mut up => (outcome, true),
        outcome = &mut down => (outcome, false),
    };
    match first {
        (Outcome::Ended, true) => {
            down.await;
        }
        (Outcome::Ended, false) => {
            up.await;
        }
        (Outcome::Broken, _) => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

enum Outcome {
    Ended,
    Broken,
}

async fn copy(link: &Link, side: Side, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Outcome {
    let mut modes = link.shared.mode.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return Outcome::Broken;
        };
        if modes.wait_for(|mode| *mode == Mode::Pass).await.is_err() {
            return Outcome::Broken;
        }
        if link.is_held(side, &buffer[..count]) {
            std::future::pending::<()>().await;
        }
        if count == 0 {
            return if to.shutdown().await.is_ok() {
                Outcome::Ended
            } else {
                Outcome::Broken
            };
        }
        let data = &buffer[..count];
        if link.loses_reply(side, data) {
            link.shared.cuts.fetch_add(1, Ordering::SeqCst);
            return Outcome::Broken;
        }
        let allowed = link.allowed(count);
        if to.write_all(&data[..allowed]).await.is_err() {
            return Outcome::Broken;
        }
        if allowed < count {
            link.shared.cuts.fetch_add(1, Ordering::SeqCst);
            return Outcome::Broken;
        }
    }
}

impl Link {
    fn is_held(&self, side: Side, data: &[u8]) -> bool {
        let trap = self.shared.trap.lock().expect("not poisoned");
        if side == Side::Client && trap.as_ref().is_some_and(|text| contains(data, text)) {
            self.trapped.store(true, Ordering::SeqCst);
        }
        self.trapped.load(Ordering::SeqCst) || self.number < self.shared.held_below.load(Ordering::SeqCst)
    }

    fn loses_reply(&self, side: Side, data: &[u8]) -> bool {
        if side == Side::Server {
            return self.doomed.load(Ordering::SeqCst);
        }
        let mut wanted = self.shared.doomed.lock().expect("not poisoned");
        if wanted.as_ref().is_some_and(|text| contains(data, text)) {
            *wanted = None;
            self.doomed.store(true, Ordering::SeqCst);
        }
        false
    }

    /// How many of `count` bytes may still pass.
    fn allowed(&self, count: usize) -> usize {
        let limit = self.shared.cut_every.load(Ordering::SeqCst);
        let before = self.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if limit == 0 {
            count
        } else {
            count.min(limit.saturating_sub(before) as usize)
        }
    }
}

fn contains(data: &[u8], text: &[u8]) -> bool {
    text.is_empty() || data.windows(text.len()).any(|window| window == text)
}
