//! One commit in the making: the run row as it will be, its new events, the rows to write.

use super::row::{LeaseEnd, RunRow};
use super::steps::OpenStep;
use super::write;
use crate::db::tx::{Param, Statement};
use crate::figures;
use crate::projectors::{self, Newest, Projected, Projection};
use domain::canonical::event_hash;
use domain::clock::Ids;
use domain::decide::LeaseIntent;
use domain::event::{Event, NewEvent};
use domain::ids::StepId;
use domain::redact::Redactor;
use domain::run::Lease;
use domain::runtime_event::{of_platform_event, state_word};
use domain::storable::Storable as _;
use domain::waiting::waiting;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::HashMap;

/// The shortest distance of two times of one run.
const TICK: SignedDuration = SignedDuration::from_micros(1);

/// An event and its twin on the runtime surface, linked to the event before.
#[derive(Debug, Clone)]
pub(crate) struct LinkedEvent {
    pub(crate) event: Event,
    pub(crate) event_type: String,
    pub(crate) payload: Value,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) prev_hash: Option<String>,
    pub(crate) event_hash: String,
}

/// The twin of an event, given by the caller instead of derived from it.
#[derive(Debug, Clone)]
pub(crate) struct Twin {
    pub(crate) event_type: String,
    pub(crate) payload: Value,
    pub(crate) idempotency_key: Option<String>,
}

/// What a batch takes from outside.
pub(crate) struct Context<'a> {
    pub(crate) now: Timestamp,
    pub(crate) ids: &'a dyn Ids,
    /// Every event, error and wait passes it before it is stored.
    pub(crate) redactor: &'a Redactor,
    pub(crate) credits_enforced: bool,
    /// Working time a run may take, from its first planning.
    pub(crate) run_timeout: SignedDuration,
}

pub(crate) struct Batch<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) run: RunRow,
    pub(crate) open_steps: HashMap<StepId, OpenStep>,
    pub(crate) events: Vec<LinkedEvent>,
    pub(crate) writes: Vec<Statement>,
    /// Last time given out; every row of a run that is ordered by time gets its own.
    last_tick: Timestamp,
    /// `last_seq` as it was read, for the compare-and-set.
    expected_seq: i64,
    /// The claim that writes; none for commands of users and of the platform.
    pub(crate) writer_epoch: Option<i64>,
}

/// Microseconds are what Postgres keeps; hashes and answers must see the same value as a later read.
pub(crate) fn to_micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

impl<'a> Batch<'a> {
    pub(crate) fn new(context: Context<'a>, run: RunRow, open_steps: HashMap<StepId, OpenStep>) -> Self {
        let last_tick = run.last_event_at;
        let expected_seq = run.state.last_seq;
        Self {
            context,
            run,
            open_steps,
            events: vec![],
            writes: vec![],
            last_tick,
            expected_seq,
            writer_epoch: None,
        }
    }

    /// The present time, but always after every time of this run given out before.
    pub(crate) fn tick(&mut self) -> Timestamp {
        let next = self.last_tick.checked_add(TICK).unwrap_or(self.last_tick);
        self.last_tick = to_micros(self.context.now).max(next);
        self.last_tick
    }

    /// Adds an event; gives its time. Its twin is derived from it.
    pub(crate) fn push(&mut self, new: NewEvent) -> Timestamp {
        let event = self.place(new);
        let (event_type, payload) = of_platform_event(&event, self.run.error_code.as_deref());
        let twin = Twin {
            event_type: event_type.to_owned(),
            payload,
            idempotency_key: None,
        };
        self.link(event, twin)
    }

    /// Adds an event whose twin came from outside.
    pub(crate) fn push_twin(&mut self, new: NewEvent, twin: Twin) -> Timestamp {
        let event = self.place(new);
        self.link(event, twin)
    }

    fn place(&mut self, mut new: NewEvent) -> Event {
        new.make_storable();
        self.context.redactor.event(&mut new);
        let created_at = self.tick();
        self.run.state.last_seq += 1;
        self.run.last_event_at = created_at;
        Event {
            id: self.context.ids.uuid(),
            run_id: self.run.state.id,
            seq: self.run.state.last_seq,
            log_type: new.log_type,
            message: new.message,
            metadata: new.metadata,
            created_at,
        }
    }

    fn link(&mut self, event: Event, twin: Twin) -> Timestamp {
        let prev_hash = self.run.head_hash.take();
        let run_id = event.run_id.to_string();
        let hash = event_hash(
            &run_id,
            event.seq,
            &twin.event_type,
            &twin.payload,
            prev_hash.as_deref(),
        );
        let at = event.created_at;
        self.run.head_hash = Some(hash.clone());
        self.events.push(LinkedEvent {
            event,
            event_type: twin.event_type,
            payload: twin.payload,
            idempotency_key: twin.idempotency_key,
            prev_hash,
            event_hash: hash,
        });
        at
    }

    pub(crate) fn lease(&mut self, intent: LeaseIntent, lease_ms: i64) {
        let state = &mut self.run.state;
        match intent {
            LeaseIntent::Keep => {}
            LeaseIntent::Take(owner) => {
                // The old lease is still there: its worker was lost, which uses up an attempt.
                if state.lease.is_some() {
                    state.retry_count += 1;
                }
                state.epoch += 1;
                state.crash_count += 1;
                state.lease = Some(Lease { owner, alive: true });
                self.run.lease_end = LeaseEnd::In(lease_ms);
                self.run.counters.attempt = (state.retry_count + 1) as i32;
                self.run.times.next_retry_at = None;
                self.run.waiting_for = None;
            }
            LeaseIntent::Drop => state.lease = None,
            LeaseIntent::DropForRetry {
                after_ms,
                error,
                cause,
            } => {
                state.lease = None;
                state.crash_count = 0;
                state.retry_count += 1;
                let due = self
                    .context
                    .now
                    .checked_add(SignedDuration::from_millis(after_ms));
                self.run.times.next_retry_at = due.ok().map(to_micros);
                self.run.waiting_for = Some(waiting(cause.kind(), &error));
                self.run.error_message = Some(error);
            }
        }
    }

    /// Every statement of the commit, in order, with the row and the events as they will be.
    pub(crate) fn finish(mut self, projection: Projection) -> (Vec<Statement>, RunRow, Vec<Event>) {
        self.redact_row();
        let projected = self.projected(projection);
        if let Some(projected) = &projected {
            figures::handed_to_commit(&self.events, projected.drift.is_some());
        }
        let Self {
            run,
            events,
            writes: mut statements,
            expected_seq,
            ..
        } = self;
        match projected {
            None => statements.push(write::run_row(&run, expected_seq)),
            Some(Projected { drift, params }) => {
                statements.extend(drift);
                statements.push(write::run_and_events(&run, expected_seq, &events, params));
            }
        }
        let events = events.into_iter().map(|linked| linked.event).collect();
        (statements, run, events)
    }

    /// As [`Batch::finish`], of a run whose row is not there yet; see [`write::new_run_and_events`] for `fresh`.
    pub(crate) fn finish_new(mut self, fresh: Vec<Param>) -> (Statement, RunRow, Vec<Event>) {
        self.redact_row();
        figures::handed_to_commit(&self.events, false);
        let projected = self
            .projected(Projection::default())
            .map_or_else(Vec::new, |projected| projected.params);
        let statement = write::new_run_and_events(&self.run, &self.events, projected, fresh);
        let events = self.events.into_iter().map(|linked| linked.event).collect();
        (statement, self.run, events)
    }

    fn redact_row(&mut self) {
        let redactor = self.context.redactor;
        self.run.error_message.make_storable();
        self.run.waiting_for.make_storable();
        if let Some(error) = &mut self.run.error_message {
            redactor.string(error);
        }
        if let Some(waiting_for) = &mut self.run.waiting_for {
            redactor.value(waiting_for);
        }
    }

    /// Checkpoint and summary after the new events; nothing when there are none.
    fn projected(&self, projection: Projection) -> Option<Projected> {
        let last = self.events.last()?;
        let newest = Newest {
            run_id: self.run.state.id,
            event_type: &last.event_type,
            status: state_word(self.run.state.status, self.run.state.cancel_requested),
            at: last.event.created_at,
        };
        let seqs = self.events.iter().map(|linked| linked.event.seq);
        Some(projectors::project(projection, seqs, &newest))
    }
}
