//! The seam to whoever starts programs apart from everything else: a browser, the server of a tool.
//!
//! A started program lives as long as the value [`Launched::alive`]; dropped, the whole tree is killed.

use futures::future::BoxFuture;
use outbound::ProxyService;
use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

/// In an argument: where the proxy listens as the program sees it, as `host:port`.
pub const PROXY_HERE: &str = "{proxy}";
/// In an argument: an empty directory for it to write to.
pub const SCRATCH_HERE: &str = "{scratch}";

/// How a program reaches others.
#[derive(Debug, Clone)]
pub enum Network {
    /// Not at all.
    None,
    /// Through this proxy only.
    Proxy(ProxyService),
    /// As this machine does.
    Host,
}

/// What is measured out to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Browser,
    Server,
}

/// A program to start.
#[derive(Debug, Clone)]
pub struct Launch {
    pub size: Size,
    /// The program and its arguments; [`PROXY_HERE`] and [`SCRATCH_HERE`] in them are replaced.
    pub argv: Vec<String>,
    /// Its environment beside the few fixed variables of a sandbox; may hold secrets.
    pub env: Vec<(String, String)>,
    pub network: Network,
    /// Directories and files of this machine it may read beside the system's.
    pub readable: Vec<PathBuf>,
}

/// A started program.
pub struct Launched {
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Keeps it running.
    pub alive: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Launched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Launched").finish_non_exhaustive()
    }
}

/// Why a program was not started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LaunchFault(pub String);

/// Starts programs. Implementations: the worker's sandbox, bare processes of tests, [`NoLauncher`].
pub trait Launcher: std::fmt::Debug + Send + Sync + 'static {
    fn launch(&self, what: Launch) -> BoxFuture<'_, Result<Launched, LaunchFault>>;
}

/// Where nothing can be isolated nothing is started.
#[derive(Debug, Clone)]
pub struct NoLauncher {
    /// Told to whoever asks.
    pub reason: String,
}

impl Launcher for NoLauncher {
    fn launch(&self, _: Launch) -> BoxFuture<'_, Result<Launched, LaunchFault>> {
        let fault = LaunchFault(self.reason.clone());
        Box::pin(std::future::ready(Err(fault)))
    }
}

/// What is kept of the complaints of a program.
const LAST_WORDS: usize = 2048;
const LAST_MOMENT: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The end of what a program wrote to standard error; reads on, so that it never waits for us.
#[derive(Debug)]
pub(crate) struct LastWords {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl LastWords {
    pub(crate) fn of(mut stderr: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let into = kept.clone();
        let reading = tokio::spawn(async move {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut piece).await {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..read]);
                let beyond = kept.len().saturating_sub(LAST_WORDS);
                kept.drain(..beyond);
            }
        });
        Self { kept, reading }
    }

    /// The last line with anything in it; of a program that is ending, after a moment for all of it to come.
    pub(crate) async fn line(&self) -> String {
        let until = Instant::now() + LAST_MOMENT;
        while !self.reading.is_finished() && Instant::now() < until {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept).into_owned();
        let line = text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        line.chars().filter(|char| !char.is_control()).take(300).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_many_complaints_the_last_line_is_told() {
        let mut long = vec![b'x'; 100_000];
        long.extend_from_slice(b"\nlast \x1b[31mwords\n\n");
        let words = LastWords::of(std::io::Cursor::new(long));
        assert_eq!(words.line().await, "last [31mwords");
    }
}
