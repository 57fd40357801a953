//! The queue as it should be: plain data, no server, no scripts.

use std::collections::BTreeMap;

pub(crate) type Run = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    High,
    Pending,
    Processing,
    Retry,
    Failed,
}

pub(crate) const LISTS: [(List, &str, &str); 5] = [
    (List::High, "high_priority", "high"),
    (List::Pending, "pending", "pending"),
    (List::Processing, "processing", "processing"),
    (List::Retry, "retry", "retry"),
    (List::Failed, "failed", "failed"),
];

/// An element of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A whole job: run and attempt.
    Job(Run, u32),
    /// `{"run_id":…}` as pushed by hand.
    Bare(Run),
    Garbage(String),
    /// A buried garbage.
    Undecodable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) epoch: i64,
    pub(crate) deliveries: u32,
    pub(crate) list: List,
    pub(crate) home: List,
    pub(crate) attempt: u32,
    pub(crate) foreign: bool,
    /// Worker and number of the claim, while held.
    pub(crate) claim: Option<(usize, u64)>,
}

/// What a claim should hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) run: Run,
    pub(crate) attempt: u32,
    pub(crate) deliveries: u32,
    pub(crate) foreign: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Stale,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Retry,
    Failed,
    Home,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewed {
    Held,
    Readopted,
    Lost,
}

/// A claim in a worker's hand: run, epoch, attempt in its text.
pub(crate) type InHand = (Run, i64, u32);

pub(crate) fn home(run: Run) -> List {
    if is_urgent(run) { List::High } else { List::Pending }
}

pub(crate) fn is_urgent(run: Run) -> bool {
    run.is_multiple_of(3)
}

/// What a claim took: a job of ours, or something pushed by hand.
enum Row {
    Ours(Run),
    ByHand(Item),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Each from the end that is served first.
    pub(crate) lists: BTreeMap<List, Vec<Item>>,
    pub(crate) known: BTreeMap<Run, Known>,
    /// Buried garbage is known too, by ids of its own.
    pub(crate) undecodable: usize,
    /// Order in which leases run out; 0 for those that have not.
    pub(crate) leases: BTreeMap<Run, u64>,
    /// Order in which retries came due; 0 for those that have not.
    pub(crate) due: BTreeMap<Run, u64>,
    pub(crate) paused: bool,
    /// Number of the data set, once a renewal gave it one.
    pub(crate) incarnation: Option<u64>,
    next: u64,
}

impl State {
    pub(crate) fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn list(&mut self, list: List) -> &mut Vec<Item> {
        self.lists.entry(list).or_default()
    }

    /// Where a job stands in its list.
    fn take_out(&mut self, run: Run) {
        let (list, attempt) = (self.known[&run].list, self.known[&run].attempt);
        let items = self.list(list);
        let same = |item: &Item| *item == Item::Job(run, attempt);
        match list {
            List::Processing | List::Failed => {
                let at = items.iter().rposition(same).unwrap();
                items.remove(at);
            }
            List::Retry => {
                let at = items.iter().position(same).unwrap();
                items.swap_remove(at); // the newest fills the hole
            }
            List::High | List::Pending => {
                let at = items.iter().position(same).unwrap();
                items.remove(at);
            }
        }
    }

    pub(crate) fn forget(&mut self, run: Run) {
        self.known.remove(&run);
        self.leases.remove(&run);
        self.due.remove(&run);
    }

    pub(crate) fn push(&mut self, run: Run) -> bool {
        if self.known.contains_key(&run) {
            return false;
        }
        self.add(run, home(run), 1);
        true
    }

    fn add(&mut self, run: Run, list: List, attempt: u32) {
        let known = Known {
            epoch: 0,
            deliveries: 0,
            list,
            home: home(run),
            attempt,
            foreign: false,
            claim: None,
        };
        self.known.insert(run, known);
        self.list(list).push(Item::Job(run, attempt));
    }

    pub(crate) fn push_retry(&mut self, run: Run) -> bool {
        if self.known.contains_key(&run) {
            return false;
        }
        self.add(run, List::Retry, 2);
        self.due.insert(run, 0);
        true
    }

    /// True when a claim finds only jobs of ours where we put them.
    pub(crate) fn is_plain(&self, want: usize) -> bool {
        let mut seen = Vec::new();
        let lines = [List::High, List::Pending];
        let items = lines.iter().flat_map(|list| {
            self.lists
                .get(list)
                .into_iter()
                .flatten()
                .map(move |item| (*list, item))
        });
        let plain = items.take(want).all(|(list, item)| match item {
            Item::Job(run, attempt) => {
                let twice = seen.contains(run);
                seen.push(*run);
                let known = self.known.get(run);
                !twice && known.is_some_and(|known| known.list == list && known.attempt == *attempt)
            }
            _ => false,
        });
        plain && self.due.values().all(|order| *order == 0)
    }

    /// A claim. `lost` are earlier claims of this worker without an answer, `leases` all leases in the server's order.
    pub(crate) fn claim(
        &mut self,
        claim: (usize, u64),
        want: usize,
        lost: &[u64],
        leases: &[Run],
    ) -> Vec<Handed> {
        let mut rows = self.recover(claim, want, lost, leases);
        if !self.paused {
            self.take_line(List::High, claim, want, &mut rows);
            self.take_due(claim, want, &mut rows);
            self.take_line(List::Pending, claim, want, &mut rows);
        }
        self.adopt(rows)
    }

    fn recover(&mut self, claim: (usize, u64), want: usize, lost: &[u64], leases: &[Run]) -> Vec<Row> {
        let mut rows = Vec::new();
        for run in leases {
            let known = self.known.get_mut(run).unwrap();
            let is_lost = known
                .claim
                .is_some_and(|(worker, number)| worker == claim.0 && lost.contains(&number));
            if known.list != List::Processing || !is_lost {
                continue;
            }
            known.deliveries -= 1;
            if rows.len() < want {
                known.deliveries += 1;
                known.claim = Some(claim);
                self.leases.insert(*run, 0);
                rows.push(Row::Ours(*run));
            } else {
                self.back_to_front(*run);
                let known = self.known.get_mut(run).unwrap();
                known.epoch = -known.epoch;
            }
        }
        rows
    }

    fn back_to_front(&mut self, run: Run) {
        self.take_out(run);
        self.leases.remove(&run);
        let known = self.known.get_mut(&run).unwrap();
        known.list = known.home;
        let (list, attempt) = (known.list, known.attempt);
        self.list(list).insert(0, Item::Job(run, attempt));
    }

    fn take_line(&mut self, list: List, claim: (usize, u64), want: usize, rows: &mut Vec<Row>) {
        while rows.len() < want && !self.list(list).is_empty() {
            let item = self.list(list).remove(0);
            match self.counterpart(&item) {
                None => {
                    self.list(List::Processing).push(item.clone());
                    rows.push(Row::ByHand(item));
                }
                Some((_, List::Processing)) => {} // the second copy of a job in hand
                Some((run, at)) => {
                    if at != list {
                        self.take_out(run);
                        self.due.remove(&run);
                    }
                    self.deliver(run, claim);
                    rows.push(Row::Ours(run));
                }
            }
        }
    }

    /// The job that has exactly this text, and its list; the texts in retry and failed have more fields.
    fn counterpart(&self, item: &Item) -> Option<(Run, List)> {
        let Item::Job(run, attempt) = item else {
            return None;
        };
        let known = self.known.get(run)?;
        let same = known.attempt == *attempt && !matches!(known.list, List::Retry | List::Failed);
        same.then_some((*run, known.list))
    }

    fn deliver(&mut self, run: Run, claim: (usize, u64)) {
        let known = self.known.get_mut(&run).unwrap();
        known.deliveries += 1;
        known.list = List::Processing;
        known.claim = Some(claim);
        let attempt = known.attempt;
        self.leases.insert(run, 0);
        self.list(List::Processing).push(Item::Job(run, attempt));
    }

    fn take_due(&mut self, claim: (usize, u64), want: usize, rows: &mut Vec<Row>) {
        let mut due: Vec<(u64, Run)> = self.due.iter().map(|(run, order)| (*order, *run)).collect();
        due.retain(|(order, _)| *order > 0);
        due.sort_unstable();
        for (_, run) in due {
            if rows.len() == want {
                return;
            }
            self.take_out(run);
            self.due.remove(&run);
            self.deliver(run, claim);
            rows.push(Row::Ours(run));
        }
    }

    /// Makes whole what was pushed by hand, which moves it to the head of processing.
    fn adopt(&mut self, rows: Vec<Row>) -> Vec<Handed> {
        let mut handed = Vec::new();
        for row in rows {
            let item = match row {
                Row::Ours(run) => {
                    handed.push(self.handed(run));
                    continue;
                }
                Row::ByHand(item) => item,
            };
            let at = self
                .list(List::Processing)
                .iter()
                .rposition(|other| *other == item);
            self.list(List::Processing).remove(at.unwrap());
            let (run, attempt, foreign) = match item {
                Item::Job(run, attempt) => (run, attempt, false),
                Item::Bare(run) => (run, 1, true),
                Item::Garbage(text) => {
                    self.list(List::Failed).push(Item::Undecodable(text));
                    self.undecodable += 1;
                    continue;
                }
                Item::Undecodable(_) => unreachable!("is never in a line"),
            };
            if self.known.contains_key(&run) {
                continue; // known meanwhile: the copy is dropped
            }
            self.add(run, List::Processing, attempt);
            let known = self.known.get_mut(&run).unwrap();
            known.foreign = foreign;
            known.deliveries = 1;
            self.leases.insert(run, 0);
            handed.push(self.handed(run));
        }
        handed
    }

    fn handed(&self, run: Run) -> Handed {
        let known = &self.known[&run];
        Handed {
            run,
            attempt: known.attempt,
            deliveries: known.deliveries,
            foreign: known.foreign,
        }
    }

    /// The claim of a settlement is the present one.
    fn fence(&self, run: Run, epoch: i64) -> Outcome {
        match self.known.get(&run) {
            None => Outcome::Gone,
            Some(known) if known.epoch != epoch => Outcome::Stale,
            Some(_) => Outcome::Done,
        }
    }

    pub(crate) fn ack(&mut self, run: Run, epoch: i64) -> Outcome {
        let outcome = self.fence(run, epoch);
        if outcome == Outcome::Done {
            self.take_out(run);
            self.forget(run);
        }
        outcome
    }

    pub(crate) fn release(&mut self, run: Run, epoch: i64, attempt: u32, target: Target) -> Outcome {
        let outcome = self.fence(run, epoch);
        if outcome != Outcome::Done {
            return outcome;
        }
        self.take_out(run);
        self.leases.remove(&run);
        let known = self.known.get_mut(&run).unwrap();
        known.epoch = -epoch;
        known.attempt = attempt;
        known.list = match target {
            Target::Retry => List::Retry,
            Target::Failed => List::Failed,
            Target::Home => known.home,
        };
        let hand_back = target == Target::Home;
        known.deliveries = if hand_back {
            known.deliveries.saturating_sub(1)
        } else {
            0
        };
        let list = known.list;
        let at = if hand_back { 0 } else { self.list(list).len() };
        self.list(list).insert(at, Item::Job(run, attempt));
        if target == Target::Retry {
            self.due.insert(run, 0);
        }
        outcome
    }

    pub(crate) fn rewrite(&mut self, run: Run, epoch: i64, attempt: u32) -> Outcome {
        match self.known.get(&run) {
            None => return Outcome::Gone,
            Some(known) if known.epoch != epoch || known.list != List::Processing => return Outcome::Stale,
            Some(_) => {}
        }
        self.take_out(run);
        let known = self.known.get_mut(&run).unwrap();
        known.attempt = attempt;
        known.home = home(run);
        self.list(List::Processing).push(Item::Job(run, attempt));
        Outcome::Done
    }

    /// `known_as` is the incarnation the renewer saw last.
    pub(crate) fn renew(
        &mut self,
        held: &[InHand],
        known_as: Option<u64>,
        settled: bool,
    ) -> (u64, Vec<Renewed>) {
        let present = match self.incarnation {
            Some(present) => present,
            None => self.count(),
        };
        self.incarnation = Some(present);
        let emptied = known_as.is_some_and(|known_as| known_as != present);
        let answers = held
            .iter()
            .map(|claim| self.renew_one(*claim, emptied, settled))
            .collect();
        (present, answers)
    }

    fn renew_one(&mut self, (run, epoch, attempt): InHand, emptied: bool, settled: bool) -> Renewed {
        let Some(known) = self.known.get_mut(&run) else {
            if !emptied {
                return Renewed::Lost;
            }
            self.add(run, List::Processing, attempt);
            let known = self.known.get_mut(&run).unwrap();
            (known.epoch, known.deliveries) = (epoch, 1);
            self.leases.insert(run, 0);
            return Renewed::Readopted;
        };
        if known.epoch != epoch {
            if known.epoch != 0 || known.list == List::Processing || !emptied {
                return Renewed::Lost;
            }
            (known.epoch, known.deliveries) = (epoch, 1);
        }
        self.leases.insert(run, 0);
        let known = self.known.get_mut(&run).unwrap();
        if known.list == List::Processing {
            if settled {
                known.deliveries = 1;
            }
            return Renewed::Held;
        }
        known.claim = None;
        self.take_out(run);
        self.due.remove(&run);
        let known = self.known.get_mut(&run).unwrap();
        (known.list, known.attempt) = (List::Processing, attempt);
        self.list(List::Processing).push(Item::Job(run, attempt));
        Renewed::Readopted
    }

    /// Reclaimed jobs, or nothing when there is nothing to look at.
    pub(crate) fn sweep(&mut self) -> Option<u64> {
        if self.leases.is_empty() && self.list(List::Processing).is_empty() {
            return None;
        }
        let mut expired: Vec<(u64, Run)> = self.leases.iter().map(|(run, order)| (*order, *run)).collect();
        expired.retain(|(order, _)| *order > 0);
        expired.sort_unstable();
        for (_, run) in expired.iter().rev() {
            self.back_to_front(*run);
        }
        Some(expired.len() as u64)
    }

    pub(crate) fn remove(&mut self, run: Run) -> bool {
        let known = self.known.contains_key(&run);
        if known {
            self.take_out(run);
            self.forget(run);
        }
        known
    }

    pub(crate) fn requeue(&mut self, run: Run) {
        self.take_out(run);
        let known = self.known.get_mut(&run).unwrap();
        known.epoch = -known.epoch.abs();
        (known.deliveries, known.attempt, known.home) = (0, 1, home(run));
        known.list = known.home;
        let list = known.list;
        self.list(list).push(Item::Job(run, 1));
    }

    pub(crate) fn flush(&mut self) {
        let next = self.next;
        *self = Self {
            next,
            ..Self::default()
        };
    }
}
