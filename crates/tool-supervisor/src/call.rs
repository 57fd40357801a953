//! One call from the order to the record.

use crate::display::Display;
use crate::http::{Deadline, Store};
use crate::mark::Mark;
use crate::output::{Capture, Captured, Place};
use crate::policy::policy;
use crate::processes::End;
use crate::signals::Signals;
use crate::tool::{Outcome, Tool};
use crate::{Failure, display, fetch, mark, memory, order, tool, upload};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use toolbox::live::Channel;
use toolbox::tree::Before;
use toolbox::wire::{
    Durations, Ending, FailureClass, Manifest, Order, OutOfMemory, RESERVE_SECONDS, Record, Stream, VERSION,
    WORKSPACE_DIR, exit,
};

/// Outputs are kept here, without a name.
const TMP_DIR: &str = "/tmp";
/// The pod's clock started before ours.
const START_ALLOWANCE: Duration = Duration::from_secs(15);
const SIGKILL: i32 = 9;
/// In the words of file tools.
const TOO_LARGE: &str = "Workspace limit exceeded";

/// Carries the order out; gives back the exit code.
pub(crate) fn run() -> u8 {
    let began = Instant::now();
    let order = match order::read() {
        Ok(order) => order,
        Err(why) => {
            crate::complain(&format!("{why}\n"));
            return exit::USAGE;
        }
    };
    let limit = Duration::from_millis(order.timeout_ms) + Duration::from_secs(RESERVE_SECONDS);
    let deadline = Deadline::at(began + limit.saturating_sub(START_ALLOWANCE));
    let started = start(order, deadline);
    let (mut call, display) = match started {
        Ok(started) => started,
        Err(why) => {
            crate::complain(&format!("{why}\n"));
            return exit::INTERNAL;
        }
    };
    let code = call.carry_out(began);
    drop(call);
    display.finish();
    code
}

fn start(order: Order, deadline: Deadline) -> Result<(Call, display::Writer), Failure> {
    let internal = |error: std::io::Error| Failure::new(FailureClass::Internal, error.to_string());
    let program = std::env::current_exe().map_err(internal)?;
    let signals = Signals::start(&deadline)?;
    // The tool runs as the same user: it must not read our memory, and its orphans must come to us.
    for set in [
        nix::sys::prctl::set_dumpable(false),
        nix::sys::prctl::set_child_subreaper(true),
    ] {
        set.map_err(|error| internal(error.into()))?;
    }
    let (display, writer) = Display::start().map_err(internal)?;
    let store = Store::new(
        deadline,
        order.manifest_url.starts_with("https"),
        order.ca_pem.as_deref(),
    );
    let call = Call {
        order,
        program,
        signals,
        display,
        store,
    };
    Ok((call, writer))
}

struct Call {
    order: Order,
    program: PathBuf,
    signals: Signals,
    display: Display,
    store: Store,
}

/// What is known of the tool when its time is over.
#[derive(Debug, Default)]
struct Ran {
    outcome: Option<Outcome>,
    out_of_memory: Option<OutOfMemory>,
    outputs: Option<(Captured, Captured)>,
    run: Duration,
}

impl Call {
    fn carry_out(&mut self, began: Instant) -> u8 {
        self.display.say("fetching the workspace");
        let root = Path::new(WORKSPACE_DIR);
        let fetched = self.fetch(root);
        let fetch = began.elapsed();
        let empty = Manifest::default();
        let manifest = fetched.as_ref().unwrap_or(&empty);
        // From here on a signal is not simply the end: the mark may be there.
        self.signals.begin();
        match mark::write(&self.store, &self.order) {
            Ok(Mark::Ours) => {}
            Ok(Mark::Another) => {
                self.display.say("this Job was started before: nothing is done");
                return exit::STARTED_BEFORE;
            }
            Err(error) => {
                self.display.say(format!("cannot write the start mark: {error}"));
                return exit::NOT_BEGUN;
            }
        }
        let limits = self.order.limits;
        let before = Before::look(root, &manifest.files, &limits)
            .map_err(|error| Failure::new(FailureClass::Workspace, error.to_string()));
        let ready = match (&fetched, &before) {
            (Ok(manifest), Ok(_)) => Ok(manifest),
            (Err(failure), _) | (_, Err(failure)) => Err(failure.clone()),
        };
        let mut record = self.blank();
        record.durations.fetch_ms = millis(fetch);
        match ready.and_then(|manifest| self.run_tool(manifest)) {
            Err(failure) => record.ending = failed(failure),
            Ok(ran) => {
                record.durations.run_ms = millis(ran.run);
                self.store_all(&mut record, ran, before.as_ref().ok());
            }
        }
        self.settle(record)
    }

    fn fetch(&mut self, root: &Path) -> Result<Manifest, Failure> {
        let manifest = fetch::manifest(&self.store, &self.order)?;
        fetch::files(
            &self.store,
            (&manifest, fetch::reserve(&self.order)),
            root,
            &mut self.display,
        )?;
        Ok(manifest)
    }

    fn blank(&self) -> Record {
        Record {
            version: VERSION,
            spec_hash: self.order.spec_hash.clone(),
            job_uid: self.order.job_uid.clone(),
            ending: Ending::Cancelled,
            out_of_memory: None,
            durations: Durations::default(),
            stdout: Stream::default(),
            stderr: Stream::default(),
            delta: None,
            warnings: vec![],
            unkept: None,
        }
    }

    fn run_tool(&mut self, manifest: &Manifest) -> Result<Ran, Failure> {
        let internal = |error: std::io::Error| Failure::new(FailureClass::Internal, error.to_string());
        let program = self.order.program.as_ref().or(manifest.program.as_ref());
        let program = program.ok_or_else(|| {
            Failure::new(FailureClass::Internal, "neither order nor manifest has a program")
        })?;
        let tool = Tool::prepare(program, &self.order)?;
        let (dir, keep) = (Path::new(TMP_DIR), self.order.limits.output_bytes);
        let stdout = Place::new(dir, Channel::Stdout, keep).map_err(internal)?;
        let stderr = Place::new(dir, Channel::Stderr, keep).map_err(internal)?;
        if self.signals.stopped() {
            return Ok(Ran::default());
        }
        self.display.say("running");
        let (kills, began) = (memory::kills(), Instant::now());
        let mut running = tool.start(&self.program, &policy(&self.order))?;
        let captures = (|| -> std::io::Result<(Capture, Capture)> {
            let stdout = stdout.capture(running.stdout, self.display.clone())?;
            let stderr = stderr.capture(running.stderr, self.display.clone())?;
            let sender = self.signals.sender.clone();
            tool::watch(PathBuf::from(WORKSPACE_DIR), self.order.limits, sender)?;
            Ok((stdout, stderr))
        })();
        let deadline = began + Duration::from_millis(self.order.timeout_ms);
        let outcome = match &captures {
            Ok(_) => tool::supervise(&mut running.processes, &self.signals, deadline),
            Err(error) => {
                running.processes.kill_all();
                Err(internal(std::io::Error::other(error.to_string())))
            }
        };
        let run = began.elapsed();
        let (stdout, stderr) = captures.map_err(internal)?;
        let outputs = (stdout.finish(), stderr.finish());
        let outcome = outcome?;
        Ok(Ran {
            outcome: Some(outcome),
            out_of_memory: out_of_memory(outcome, memory::kills() > kills),
            outputs: Some(outputs),
            run,
        })
    }

    /// Stores files and output, and says in the record what became of them.
    fn store_all(&mut self, record: &mut Record, ran: Ran, before: Option<&Before<'_>>) {
        let began = Instant::now();
        self.display.say("storing the results");
        record.ending = ending(&ran);
        record.out_of_memory = ran.out_of_memory;
        let mut failures = vec![];
        if ran.outcome == Some(Outcome::TooLarge) {
            record.unkept = Some(TOO_LARGE.to_owned());
        }
        let keeps_files = !matches!(ran.outcome, None | Some(Outcome::TooLarge));
        if let Some(before) = before.filter(|_| keeps_files) {
            let (root, limits) = (Path::new(WORKSPACE_DIR), self.order.limits);
            match upload::delta(&self.store, &self.order, root, (before, &limits)) {
                Ok(kept) => (record.delta, record.unkept) = kept,
                Err(failure) => failures.push(failure),
            }
        }
        if let Some((stdout, stderr)) = ran.outputs {
            let puts = &self.order.put;
            for (url, captured) in [(&puts.stdout, &stdout), (&puts.stderr, &stderr)] {
                failures.extend(upload::output(&self.store, url, captured).err());
            }
            (record.stdout, record.stderr) = (stdout.stream, stderr.stream);
        }
        if record.ending == Ending::Cancelled {
            // Told to stop is what happened; what could not be kept is said beside it.
            record.warnings.extend(failures.iter().map(ToString::to_string));
        } else if let Some(failure) = failures.into_iter().next() {
            (record.delta, record.unkept) = (None, None);
            record.ending = failed(failure);
        }
        record.durations.upload_ms = millis(began.elapsed());
    }

    fn settle(&mut self, record: Record) -> u8 {
        match upload::record(&self.store, &self.order, &record) {
            Ok(()) => {
                self.display.say("done");
                0
            }
            Err(error) => {
                self.display.say(format!("cannot store the record: {error}"));
                exit::NOT_STORED
            }
        }
    }
}

fn failed(failure: Failure) -> Ending {
    Ending::Failed {
        class: failure.class,
        message: failure.message,
    }
}

fn ending(ran: &Ran) -> Ending {
    match ran.outcome {
        None | Some(Outcome::Stopped) => Ending::Cancelled,
        Some(Outcome::TimedOut) => Ending::TimedOut,
        Some(Outcome::Ended(End::Exited(code))) => Ending::Exited { code },
        Some(Outcome::Ended(End::Signalled(signal))) => Ending::Signalled { signal },
        Some(Outcome::TooLarge) => failed(Failure::new(FailureClass::Workspace, TOO_LARGE)),
    }
}

fn out_of_memory(outcome: Outcome, killed: bool) -> Option<OutOfMemory> {
    let main = outcome == Outcome::Ended(End::Signalled(SIGKILL));
    let which = if main {
        OutOfMemory::Main
    } else {
        OutOfMemory::Child
    };
    killed.then_some(which)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
