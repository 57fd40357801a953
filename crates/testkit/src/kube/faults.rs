//! Faults on demand, and the count of all requests.

use super::request::Call;
use super::status::Status;
use std::collections::BTreeMap;
use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// This answer, and nothing is done.
    Answer(Status),
    /// All is done, and then this answer.
    AnswerAfter(Status),
    /// The connection is closed and nothing is done.
    CutBefore,
    /// All is done, and then the connection is closed.
    CutAfter,
    /// The answer comes late.
    Slow(Duration),
    /// A watch: closed in the middle of a line after this time.
    WatchCut(Duration),
    /// A watch: an `ERROR` event with 410 after this time.
    WatchGone(Duration),
    /// A watch: every event comes twice.
    WatchDouble,
    /// A watch: events that are waiting come in the wrong order.
    WatchReorder,
    /// A watch: bookmarks and no event.
    WatchSilent,
    /// A log stream: closed in the middle of a line after this time.
    LogCut(Duration),
    /// A log stream: a clean end after so many bytes, as when the file is rotated away under the reader.
    LogLoseTail(usize),
    /// A log: 200 without a byte.
    LogEmpty,
}

/// Which requests a fault meets.
#[derive(Debug, Clone, PartialEq)]
pub struct On {
    verb: Option<String>,
    resource: Option<String>,
    left: Option<u32>,
    chance: f64,
}

impl On {
    /// `"*"` = any. Resources are `jobs`, `pods`, `pods/log` and so on.
    pub fn new(verb: &str, resource: &str) -> Self {
        let given = |text: &str| (text != "*").then(|| text.to_owned());
        Self {
            verb: given(verb),
            resource: given(resource),
            left: None,
            chance: 1.0,
        }
    }

    /// Only the first so many.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// Each with this probability.
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    fn is_met_by(&self, call: &Call) -> bool {
        let resource = call.resource();
        self.left != Some(0)
            && self.verb.as_deref().is_none_or(|verb| verb == call.verb)
            && self.resource.as_deref().is_none_or(|name| name == resource)
    }
}

/// All faults that are set, and what was asked so far.
#[derive(Debug)]
pub(super) struct Faults {
    set: Vec<(Fault, On)>,
    random: u64,
    pub(super) counts: BTreeMap<(String, String), u64>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            set: Vec::new(),
            random: seed,
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, fault: Fault, on: On) {
        self.set.push((fault, on));
    }

    pub(super) fn clear(&mut self) {
        self.set.clear();
    }

    pub(super) fn count(&mut self, call: &Call) {
        let key = (call.verb.to_owned(), call.resource());
        *self.counts.entry(key).or_default() += 1;
    }

    /// The faults of this request.
    pub(super) fn take(&mut self, call: &Call) -> Vec<Fault> {
        let mut found = Vec::new();
        let mut random = self.random;
        for (fault, on) in &mut self.set {
            if !on.is_met_by(call) || next(&mut random) > on.chance {
                continue;
            }
            on.left = on.left.map(|left| left - 1);
            found.push(fault.clone());
        }
        self.random = random;
        found
    }
}

/// The next of a sequence of numbers in 0..1 (splitmix64).
fn next(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}
