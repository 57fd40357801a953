//! What is seen of a model call while it is under way.

use crate::ports::{CallWatch, FailedCall, RunLog};
use crate::purse::{Purse, chars};
use domain::Clock;
use domain::budget::{Dimension, Spend};
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Passes a reply's text on while it comes, and keeps what failed tries used.
pub(super) struct Watch<'a, L> {
    log: &'a L,
    clock: &'a dyn Clock,
    turn: u32,
    /// What the whole call is expected to use at most.
    worst: Spend,
    failed: Mutex<Vec<FailedCall>>,
    /// Tries whose text was shown.
    shown: AtomicU32,
    spoke: AtomicBool,
    /// Characters of the try under way.
    said: AtomicUsize,
}

impl<'a, L: RunLog> Watch<'a, L> {
    pub(super) fn new(log: &'a L, clock: &'a dyn Clock, turn: u32, worst: Spend) -> Self {
        Self {
            log,
            clock,
            turn,
            worst,
            failed: Mutex::default(),
            shown: AtomicU32::new(0),
            spoke: AtomicBool::new(false),
            said: AtomicUsize::new(0),
        }
    }

    /// The tries that failed, once.
    pub(super) fn failed_tries(&self) -> Vec<FailedCall> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Characters of the try under way.
    pub(super) fn said(&self) -> usize {
        self.said.load(Ordering::Relaxed)
    }

    fn used_by_failed(&self) -> Spend {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed
            .iter()
            .fold(Spend::default(), |sum, call| sum.plus(Spend::of_call(call.usage)))
    }

    /// Nothing more comes: what was held back of the text is shown.
    pub(super) fn end(&self) {
        if self.spoke.load(Ordering::Relaxed) {
            self.log
                .show_text(self.turn, self.shown.load(Ordering::Relaxed), "");
        }
    }
}

impl<L: RunLog> CallWatch for Watch<'_, L> {
    fn text(&self, text: &str) {
        self.spoke.store(true, Ordering::Relaxed);
        self.said.fetch_add(chars(text), Ordering::Relaxed);
        let try_number = self.shown.load(Ordering::Relaxed);
        self.log.show_text(self.turn, try_number, text);
    }

    fn failed(&self, call: FailedCall) {
        self.shown.fetch_add(1, Ordering::Relaxed);
        self.said.store(0, Ordering::Relaxed);
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
    }

    /// Tries that used tokens leave less for the next one: what they used is not stored yet, so it is judged, and set aside for
    /// the day, together with the next one's worst case.
    fn may_try_again(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let used = self.used_by_failed();
            if used.get(Dimension::Tokens) == 0 {
                return true;
            }
            let ahead = self.worst.plus(used);
            let over = |purse: &Purse| purse.reached_by_call(ahead, self.clock.now()).is_some();
            if self.log.purse().is_some_and(over) {
                return false;
            }
            match self.log.reserve(self.turn, ahead).await {
                Ok(reached) => reached.is_none(),
                Err(error) => {
                    tracing::warn!(%error, "no room could be set aside for another try");
                    false
                }
            }
        })
    }
}
