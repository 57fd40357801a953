//! The thread that starts the containers' processes, in a network of its own.
//!
//! With root the thread leaves the host's network: its children see a loopback and nothing else. Ports that pods may reach are
//! listened on there and carried to the same port of the host. bubblewrap dies with the thread that started it, so one thread
//! that lives as long as the node starts them all.

use nix::sched::{CloneFlags, unshare};
use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::mpsc;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Request = (Command, Handle, oneshot::Sender<io::Result<Child>>);

/// Starts processes; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Spawner(mpsc::Sender<Request>);

impl Spawner {
    /// Must be called inside the runtime.
    pub(super) async fn start(reach: &[u16]) -> Self {
        let (requests, queue) = mpsc::channel::<Request>();
        let (ready, listening) = oneshot::channel();
        let ports = reach.to_vec();
        std::thread::Builder::new()
            .name("testkit-node".to_owned())
            .spawn(move || {
                if ready.send(isolate(&ports)).is_err() {
                    return;
                }
                for (mut command, runtime, answer) in queue {
                    let _entered = runtime.enter();
                    // Nobody waits any more: the child is killed when it is dropped.
                    drop(answer.send(command.spawn()));
                }
            })
            .expect("a thread can be started");
        for (port, listener) in listening.await.expect("the thread answers") {
            let listener = TcpListener::from_std(listener).expect("a listener can be used");
            tokio::spawn(carry(listener, port));
        }
        Self(requests)
    }

    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the node's thread is gone");
        let (answer, started) = oneshot::channel();
        self.0
            .send((command, Handle::current(), answer))
            .map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

/// Leaves the host's network and listens on the ports; does nothing without root.
fn isolate(ports: &[u16]) -> Vec<(u16, StdListener)> {
    if !nix::unistd::geteuid().is_root() || unshare(CloneFlags::CLONE_NEWNET).is_err() {
        return Vec::new();
    }
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(
        up.is_ok_and(|status| status.success()),
        "`ip link set lo up` failed: apt-get install iproute2"
    );
    let listen = |port: &u16| {
        let listener =
            StdListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("nobody else is in a new network");
        listener.set_nonblocking(true).expect("a listener can be used");
        (*port, listener)
    };
    ports.iter().map(listen).collect()
}

async fn carry(listener: TcpListener, port: u16) {
    while let Ok((mut inside, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A closed port on the host is a closed connection inside.
            if let Ok(mut outside) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                drop(tokio::io::copy_bidirectional(&mut inside, &mut outside).await);
            }
        });
    }
}
