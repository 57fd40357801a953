//! Orderly shutdown: a soft token (stop taking work), a hard token (stop at once), a tracker of tasks.
//!
//! The soft token is a child of the hard one. The first SIGTERM or SIGINT fires soft, the second hard. A background task
//! that panics or ends early with an error fires soft too and is remembered, so that the process can exit with its
//! own code.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cheap clone; all clones share the tokens.
#[derive(Debug, Clone)]
pub struct Shutdown {
    hard: CancellationToken,
    soft: CancellationToken,
    tracker: TaskTracker,
    crash: Arc<Mutex<Option<String>>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    pub fn new() -> Self {
        let hard = CancellationToken::new();
        Self {
            soft: hard.child_token(),
            hard,
            tracker: TaskTracker::new(),
            crash: Arc::default(),
        }
    }

    /// Fires when no more work may be taken.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Fires when work in hand must stop at once.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// First stage.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Second stage.
    pub fn abort(&self) {
        self.hard.cancel();
    }

    /// Listens for SIGTERM and SIGINT from now on.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let this = self.clone();
        tokio::spawn(async move {
            for stage in 0..2 {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                tracing::info!(stage, "shutdown signal received");
                if stage == 0 { this.begin() } else { this.abort() }
            }
        });
        Ok(())
    }

    /// Runs a background task that must live as long as the process takes work.
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let this = self.clone();
        let work = tokio::spawn(task);
        self.tracker.spawn(async move {
            let fault = match work.await {
                Ok(Ok(())) if this.soft.is_cancelled() => return,
                Ok(Ok(())) => "ended early".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(join) if join.is_cancelled() => return,
                Err(_) => "panicked".to_owned(),
            };
            tracing::error!(task = name, error = %fault, "background task failed");
            this.crash
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(format!("{name}: {fault}"));
            this.soft.cancel();
        });
    }

    /// Looks in the background whether the process can be used with its settings, also long after the start. When faults are
    /// found they are logged, the shutdown begins and the token fires; the process is then to end with
    /// [`crate::settings::exit::SETTINGS`].
    pub fn begin_when_unfit<F>(&self, faults: F) -> CancellationToken
    where
        F: Future<Output = Vec<String>> + Send + 'static,
    {
        let unfit = CancellationToken::new();
        let (told, this) = (unfit.clone(), self.clone());
        let work = async move {
            let faults = faults.await;
            if !faults.is_empty() {
                tracing::error!("invalid settings: {}", faults.join(", "));
                told.cancel();
                this.begin();
            }
        };
        tokio::spawn(self.soft().run_until_cancelled_owned(work));
        unfit
    }

    /// Runs a piece of work that shutdown waits for.
    pub fn track<F: Future<Output = ()> + Send + 'static>(&self, work: F) {
        self.tracker.spawn(work);
    }

    /// Waits until every task has ended, at most `grace` after the soft token; then fires the hard token.
    /// `true`: all ended in time.
    pub async fn drained(&self, grace: Duration) -> bool {
        self.soft.cancelled().await;
        self.tracker.close();
        let in_time = tokio::select! {
            () = self.tracker.wait() => true,
            () = tokio::time::sleep(grace) => false,
            () = self.hard.cancelled() => false,
        };
        self.hard.cancel();
        in_time
    }

    /// The first background task that failed, with its error.
    pub fn crashed(&self) -> Option<String> {
        self.crash.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_background_task_starts_the_shutdown_and_is_remembered() {
        let shutdown = Shutdown::new();
        shutdown.spawn("feeder", async { Err("no more food") });
        shutdown.soft().cancelled().await;
        assert!(shutdown.drained(Duration::from_secs(5)).await);
        assert_eq!(shutdown.crashed().as_deref(), Some("feeder: no more food"));
    }

    #[tokio::test]
    async fn settings_that_turn_out_unusable_begin_the_shutdown_and_usable_ones_do_not() {
        let shutdown = Shutdown::new();
        let fit = shutdown.begin_when_unfit(async { vec![] });
        let unfit = shutdown.begin_when_unfit(async { vec!["PREFIX: wrong".to_owned()] });
        shutdown.soft().cancelled().await;
        assert!(unfit.is_cancelled() && !fit.is_cancelled());
    }

    #[tokio::test]
    async fn draining_waits_for_tracked_work_and_then_fires_the_hard_token() {
        let shutdown = Shutdown::new();
        let hard = shutdown.hard();
        let soft = shutdown.soft();
        shutdown.track(async move { soft.cancelled().await });
        shutdown.begin();
        assert!(shutdown.drained(Duration::from_secs(5)).await);
        assert!(hard.is_cancelled());
        assert_eq!(shutdown.crashed(), None);
    }

    #[tokio::test]
    async fn work_that_outlives_the_grace_is_reported() {
        let shutdown = Shutdown::new();
        let hard = shutdown.hard();
        shutdown.track(async move { hard.cancelled().await });
        shutdown.begin();
        assert!(!shutdown.drained(Duration::from_millis(10)).await);
    }
}
