//! Starts programs again that ended by themselves, and writes down how they ended.

use std::sync::Arc;
use std::time::Duration;

use crate::history::{Entry, History};
use crate::system::System;

const EVERY: Duration = Duration::from_millis(100);
/// What a worker logs before it ends itself because it could not work any more.
const WATCHDOG_TEXTS: [&str; 3] = [
    "no claim completed",
    "no claim round trip",
    "the runtime is blocked",
];

/// Watches all programs until the task is aborted.
pub async fn supervise(system: Arc<System>, history: Arc<History>) {
    loop {
        tokio::time::sleep(EVERY).await;
        for node in system.nodes() {
            let Some(ended) = node.reap() else { continue };
            // A program that has said nothing yet does not watch for signals yet either.
            let early = ended.status.code().is_none() && ended.stdout.is_empty();
            if ended.asked && (ended.status.code() == Some(0) || early) {
                history.note(format!("{} left as it was asked to", node.name));
            } else {
                history.add(Entry::Exit {
                    node: node.name.clone(),
                    code: ended.status.code(),
                    watchdog: WATCHDOG_TEXTS.iter().any(|text| ended.stdout.contains(text)),
                });
            }
            node.start();
        }
    }
}
