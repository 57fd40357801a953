//! A TCP proxy that breaks connections on command.
//!
//! It knows no protocol. A "reply" is the first thing the server sends on a connection after the client
//! sent something, so replies can be dropped only where the server does not speak on its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::background;
use crate::port::listen;

mod link;
use link::serve;

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
        let listener = listen(crate::free_port())
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
                listen(port)
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
