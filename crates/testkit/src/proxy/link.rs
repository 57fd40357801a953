//! One connection through the proxy, both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{Mode, Shared};

/// What both directions of one connection share.
struct Link {
    shared: Arc<Shared>,
    number: u64,
    bytes: AtomicU64,
    doomed: AtomicBool,
    trapped: AtomicBool,
}

pub(super) async fn serve(shared: Arc<Shared>, client: TcpStream, number: u64) {
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
