//! The embedded S3-compatible store: a thread of this process with a runtime of its own.
//!
//! The supervisor's runtime has one thread for a reason (see [`crate::up::guard`]); object traffic must not hold it up.

use crate::failure::Failure;
use crate::up::home::Secrets;
use objectstore::{Credentials, Store};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const THREADS: usize = 2;

/// The running store.
#[derive(Debug)]
pub struct Embedded {
    stop: CancellationToken,
    thread: JoinHandle<io::Result<()>>,
}

/// The address for the programs.
pub fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Embedded {
    /// Opens the directory and listens; connections are taken from now on.
    pub async fn start(directory: &Path, port: u16, secrets: &Secrets) -> Result<Self, Failure> {
        let told = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(format!("cannot open the object store in {}", directory.display())).why(error)
        };
        let store = Store::open(directory).map_err(|error| told(&error))?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("s3")
            .enable_all()
            .build()?;
        let credentials = Credentials {
            access_key: secrets.s3_access_key.clone(),
            secret_key: secrets.s3_secret_key.clone(),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (tell, told_start) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let server = objectstore::serve(store, listener, credentials).await?;
            // The starter waits for this word; when it is gone, so is the stop token, which ends us at once.
            tell.send(()).unwrap_or_default();
            stopped.cancelled().await;
            server.shutdown().await;
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name("s3".to_owned())
            .spawn(move || runtime.block_on(serve))?;
        let embedded = Self { stop, thread };
        if told_start.await.is_err() {
            return Err(embedded.fault());
        }
        Ok(embedded)
    }

    /// Why the thread has ended.
    fn fault(self) -> Failure {
        let failure = Failure::new("the embedded object store has ended");
        match self.thread.join() {
            Ok(Err(error)) => failure.why(&error),
            Ok(Ok(())) | Err(_) => failure.because("a fault of ours, worth a report"),
        }
    }

    /// Whether the thread is still there.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends requests under way and closes.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // Joining blocks; on a thread of the pool, not on the one that supervises.
        tokio::task::spawn_blocking(move || self.thread.join().is_ok())
            .await
            .unwrap_or_default();
    }
}
