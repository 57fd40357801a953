//! Signals as events: a thread waits for them, nothing runs in a handler.

use crate::Failure;
use crate::http::Deadline;
use nix::sys::signal::{SigSet, Signal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use toolbox::wire::{FailureClass, GRACE_SECONDS, exit};

const GRACE: Duration = Duration::from_secs(GRACE_SECONDS);
/// Kept of the time until we are killed, for ending in order.
const LAST_MOMENTS: Duration = Duration::from_millis(1500);

/// What the main thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// We are told to end.
    Stop,
    /// A child may have ended.
    Child,
    /// The tool's files are too many or too large.
    TooLarge,
}

/// Events, and a way for other threads to add to them.
#[derive(Debug)]
pub(crate) struct Signals {
    pub events: Receiver<Event>,
    pub sender: Sender<Event>,
    begun: Arc<AtomicBool>,
}

impl Signals {
    /// Called while there is one thread only, so that all others inherit the mask.
    pub(crate) fn start(deadline: &Deadline) -> Result<Self, Failure> {
        let internal = |error: String| Failure::new(FailureClass::Internal, error);
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
            set.add(signal);
        }
        set.thread_block()
            .map_err(|error| internal(format!("cannot block signals: {error}")))?;
        let (sender, events) = channel();
        let begun = Arc::new(AtomicBool::new(false));
        let (to, flag, deadline) = (sender.clone(), begun.clone(), deadline.clone());
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread
            .spawn(move || wait(&set, &to, &flag, &deadline))
            .map_err(|error| internal(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            events,
            sender,
            begun,
        })
    }

    /// From now on the tool may have begun: being told to end is an event, and no longer simply the end.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    /// Whether we were told to end; forgets children, which are looked for anyway.
    pub(crate) fn stopped(&self) -> bool {
        self.events.try_iter().any(|event| event == Event::Stop)
    }
}

fn wait(set: &SigSet, events: &Sender<Event>, begun: &AtomicBool, deadline: &Deadline) {
    loop {
        let event = match set.wait() {
            Ok(Signal::SIGCHLD) => Event::Child,
            Ok(_) if !begun.load(Ordering::SeqCst) => {
                // Nothing has run and nothing is stored: leaving no trace lets the call be made again.
                std::process::exit(i32::from(exit::NOT_BEGUN));
            }
            Ok(_) => {
                deadline.shorten(Instant::now() + GRACE.saturating_sub(LAST_MOMENTS));
                Event::Stop
            }
            Err(_) => continue,
        };
        if events.send(event).is_err() {
            return;
        }
    }
}
