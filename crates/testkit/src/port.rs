//! Free loopback ports.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Below Linux' range for outgoing connections (32768..). A port from that range could be taken by
/// any client while its server is down for a restart, and a client that dials a dead port of that
/// range can even end up connected to itself.
const FIRST: u64 = 15_000;
const COUNT: u64 = 17_000;

static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0) >> 16));

/// A port of 127.0.0.1 on which nothing listens. Another process may still take it before you do:
/// start-up code must check that the answer comes from its own server, and else try the next port.
pub fn free_port() -> u16 {
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = u16::try_from(port).expect("below 32768");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {FIRST}..{}", FIRST + COUNT);
}

/// How long a port may still seem taken after its listener was closed.
const LINGERING: Duration = Duration::from_secs(5);

/// Listens on a port of 127.0.0.1 that was listened on a moment ago. A program that another thread starts at that time holds
/// the closed listener until its `exec`, so the port may be taken for some milliseconds more.
pub(crate) async fn listen(port: u16) -> std::io::Result<tokio::net::TcpListener> {
    let deadline = Instant::now() + LINGERING;
    loop {
        match tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            bound => return bound,
        }
    }
}
