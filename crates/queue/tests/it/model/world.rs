//! Carries a command out on the server and on the model, and compares the two.

use super::Op;
use super::state::{
    Handed, InHand, Item, LISTS, List, Outcome, Renewed, Run, State, Target, home, is_urgent,
};
use crate::raw::{Answer, Raw};
use crate::support::{LONG, job, text, urgent};
use domain::{Job, SystemIds, WorkerId};
use queue::{
    BuryReason, Consumer, ConsumerOptions, Delivery, Queue, QueueError, RedisOptions, Renewal, Renewer,
    Settled,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use testkit::eventually;

pub(crate) const WORKERS: usize = 3;
/// Leases and delays never run out by themselves here; the histories say when.
const LEASE: Duration = Duration::from_mins(10);
const DELAY: Duration = Duration::from_mins(10);
const FAR: &str = "2099-01-01T00:00:00Z";
const GARBAGE: [&str; 3] = ["not json", "{}", r#"{"run_id":"x"}"#];

/// Why a history did not go on.
pub(crate) enum Wrong {
    /// No answer in time: this machine was too slow, and nothing is known about the queue.
    Unanswered,
    Differs(String),
}

impl From<QueueError> for Wrong {
    fn from(fault: QueueError) -> Self {
        if fault.is_unavailable() {
            Self::Unanswered
        } else {
            Self::Differs(format!("{fault}: {:?}", std::error::Error::source(&fault)))
        }
    }
}

/// Comparison that says what differs.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), Wrong> {
    if found == wanted {
        return Ok(());
    }
    let text = format!("{what}\n  is        {found:?}\n  should be {wanted:?}");
    Err(Wrong::Differs(text))
}

struct Held {
    worker: usize,
    run: Run,
    /// Attempt in the text that the worker has.
    attempt: u32,
    delivery: Delivery,
}

struct Worker {
    consumer: Consumer,
    renewer: Renewer,
    claims: u64,
    lost: Vec<u64>,
    incarnation: Option<u64>,
}

pub(crate) struct World {
    raw: Raw,
    prefix: String,
    queue: Queue,
    workers: Vec<Worker>,
    held: Vec<Held>,
    model: State,
    runs: HashMap<String, Run>,
    /// Newest epoch of each run, over losses of data too.
    epochs: BTreeMap<Run, i64>,
}

fn job_of(run: Run) -> Job {
    if is_urgent(run) {
        urgent(run.into())
    } else {
        job(run.into())
    }
}

fn number_of(run_id: &str) -> Option<Run> {
    let id = uuid::Uuid::parse_str(run_id).ok()?;
    Some((id.as_u128() & 0xffff) as Run)
}

/// What an element of a list is.
fn item_of(element: &str) -> Item {
    let value: serde_json::Value = serde_json::from_str(element).unwrap_or_default();
    if let Some(payload) = value["payload"].as_str() {
        return Item::Undecodable(payload.to_owned());
    }
    let run = value["run_id"].as_str().and_then(number_of);
    match (run, value["attempt"].as_u64()) {
        (Some(run), Some(attempt)) => Item::Job(run, attempt as u32),
        (Some(run), None) => Item::Bare(run),
        _ => Item::Garbage(element.to_owned()),
    }
}

impl World {
    /// `port` is where the queue goes, `redis_port` where the data is looked at.
    pub(crate) async fn open(redis_port: u16, port: u16, prefix: &str) -> Self {
        let mut raw = Raw::connect(redis_port);
        raw.call(&["FLUSHALL"]);
        let options = RedisOptions {
            queue_prefix: Some(prefix.to_owned()),
            ..RedisOptions::for_url(format!("redis://127.0.0.1:{port}"))
        };
        let queue = Queue::connect(&options).await.unwrap();
        eventually(LONG, async || queue.ping().await.is_ok()).await;
        let mut workers = Vec::new();
        for number in 0..WORKERS {
            workers.push(worker(&queue, &options, number).await);
        }
        let runs = (0..8).map(|run| (job_of(run).job_id.to_string(), run)).collect();
        Self {
            raw,
            prefix: prefix.to_owned(),
            queue,
            workers,
            held: Vec::new(),
            model: State::default(),
            runs,
            epochs: BTreeMap::new(),
        }
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}:{suffix}", self.prefix)
    }

    pub(crate) async fn step(&mut self, op: &Op) -> Result<(), Wrong> {
        self.carry_out(op).await?;
        self.compare()
    }

    async fn carry_out(&mut self, op: &Op) -> Result<(), Wrong> {
        match *op {
            Op::Claim(worker, want) => self.claim(worker, want).await,
            Op::LoseAnswer(worker, want) => self.lose_answer(worker, want).await,
            Op::Ack(at) => self.ack(at).await,
            Op::AckAll(at) => self.ack_all(at).await,
            Op::Release(at, target) => self.release(at, target).await,
            Op::Rewrite(at) => self.rewrite(at).await,
            Op::Renew(worker, settled) => self.renew(worker, settled).await,
            Op::Expire(at) => self.expire(at),
            Op::LoseLease(at) => {
                self.expire(at)?;
                self.sweep().await
            }
            Op::ComeDue(at) => self.come_due(at),
            Op::Sweep => self.sweep().await,
            Op::Audit => self.audit().await,
            Op::Pause(paused) => {
                self.queue.set_paused(paused).await?;
                self.model.paused = paused;
                same("paused", self.queue.is_paused().await?, paused)
            }
            Op::Remove(run) => {
                let removed = self.queue.remove(&job_of(run).job_id).await?;
                same("removed", removed, self.model.remove(run))
            }
            Op::Requeue(at) => self.dead_letter(at, true).await,
            Op::Drop(at) => self.dead_letter(at, false).await,
            Op::Flush => {
                self.raw.call(&["FLUSHALL"]);
                self.model.flush();
                Ok(())
            }
            _ => self.push(op).await,
        }
    }

    async fn push(&mut self, op: &Op) -> Result<(), Wrong> {
        match *op {
            Op::Push(run) => {
                let pushed = self.queue.push(&job_of(run)).await?;
                same("pushed", pushed, self.model.push(run))
            }
            Op::PushMany(ref runs) => {
                let jobs: Vec<Job> = runs.iter().map(|run| job_of(*run)).collect();
                let pushed = self.queue.push_all(&jobs).await?;
                same(
                    "pushed",
                    pushed,
                    runs.iter().filter(|run| self.model.push(**run)).count(),
                )
            }
            Op::PushRetry(run) => {
                let next = job_of(run).next_attempt();
                let pushed = self.queue.push_retry(&next, FAR.parse().unwrap(), "x").await?;
                same("pushed", pushed, self.model.push_retry(run))
            }
            Op::PushText(run) => {
                self.by_hand(home(run), &text(&job_of(run)));
                Ok(())
            }
            Op::PushBare => {
                // Without a job id each is a job of its own, so each has a run of its own here.
                let run = 100 + self.model.count() as Run;
                let run_id = job_of(run).run_id;
                self.by_hand(home(run), &format!(r#"{{"run_id":"{run_id}"}}"#));
                Ok(())
            }
            Op::PushGarbage(which, high) => {
                let list = if high { List::High } else { List::Pending };
                self.by_hand(list, GARBAGE[usize::from(which)]);
                Ok(())
            }
            _ => unreachable!("carried out above"),
        }
    }

    fn by_hand(&mut self, list: List, element: &str) {
        let (_, suffix, _) = LISTS.into_iter().find(|(name, ..)| *name == list).unwrap();
        self.raw.call(&["LPUSH", &self.key(suffix), element]);
        self.model.list(list).push(item_of(element));
    }

    /// Leases in the server's order, which decides in which order lost claims are handed out again.
    fn leases(&mut self) -> Vec<Run> {
        let ids = self.raw.call(&["ZRANGE", &self.key("lease"), "0", "-1"]).texts();
        ids.iter().map(|id| self.runs[id]).collect()
    }

    /// The model's answer to a claim of this worker, which is its next one.
    fn model_claim(&mut self, worker: usize, want: usize) -> Vec<Handed> {
        let leases = self.leases();
        let number = self.workers[worker].claims;
        let lost = self.workers[worker].lost.clone();
        self.model.claim((worker, number), want, &lost, &leases)
    }

    async fn claim(&mut self, worker: usize, want: usize) -> Result<(), Wrong> {
        let wanted = self.model_claim(worker, want);
        self.workers[worker].claims += 1;
        let deliveries = self.workers[worker].consumer.claim(want).await?;
        // What a lost claim took is handed out again or back in line by now.
        self.workers[worker].lost.clear();
        let mut found = Vec::new();
        for delivery in deliveries {
            let run = number_of(&delivery.job.run_id.to_string()).unwrap();
            self.runs.insert(delivery.job.job_id.to_string(), run);
            same("text in hand", delivery.raw.clone(), text(&delivery.job))?;
            let attempt = delivery.job.attempt;
            found.push(Handed {
                run,
                attempt,
                deliveries: delivery.deliveries,
                foreign: delivery.foreign,
            });
            let newest = self.epochs.insert(run, delivery.epoch).unwrap_or(0);
            if delivery.epoch <= newest {
                let text = format!("epoch {} of run {run} is not above {newest}", delivery.epoch);
                return Err(Wrong::Differs(text));
            }
            if let Some(known) = self.model.known.get_mut(&run) {
                known.epoch = delivery.epoch;
            }
            self.held.push(Held {
                worker,
                run,
                attempt,
                delivery,
            });
        }
        same("claimed", found, wanted)
    }

    /// A claim that the server carries out and whose answer nobody gets.
    async fn lose_answer(&mut self, worker: usize, want: usize) -> Result<(), Wrong> {
        let by_one_call = !self.workers[worker].lost.is_empty();
        if by_one_call || !self.model.is_plain(want) {
            return Ok(()); // takes more than one call
        }
        self.model_claim(worker, want);
        let sent = &mut self.workers[worker];
        assert!(
            futures::future::poll_immediate(Box::pin(sent.consumer.claim(want)))
                .await
                .is_none(),
            "answered at once"
        );
        sent.lost.push(sent.claims);
        sent.claims += 1;
        self.queue.ping().await?; // on the same connection, so behind the claim
        self.learn_epochs();
        Ok(())
    }

    /// Epochs that a lost claim gave.
    fn learn_epochs(&mut self) {
        let metas = self.raw.call(&["HGETALL", &self.key("meta")]).pairs();
        for (id, meta) in metas {
            let epoch: i64 = meta.split('|').next().unwrap().parse().unwrap();
            if let Some(known) = self.runs.get(&id).and_then(|run| self.model.known.get_mut(run)) {
                known.epoch = epoch;
            }
        }
    }

    fn take_held(&mut self, at: usize) -> Option<Held> {
        (!self.held.is_empty()).then(|| self.held.remove(at % self.held.len()))
    }

    async fn ack(&mut self, at: usize) -> Result<(), Wrong> {
        let Some(held) = self.take_held(at) else {
            return Ok(());
        };
        let wanted = self.model.ack(held.run, held.delivery.epoch);
        same("acknowledged", outcome(held.delivery.ack().await?), wanted)
    }

    async fn ack_all(&mut self, at: usize) -> Result<(), Wrong> {
        let rest = self.held.split_off(at % (self.held.len() + 1));
        let mut wanted = Vec::new();
        for held in &rest {
            wanted.push(self.model.ack(held.run, held.delivery.epoch));
        }
        let deliveries = rest.into_iter().map(|held| held.delivery).collect();
        let settled = queue::ack_all(deliveries).await?;
        same("acknowledged", settled.into_iter().map(outcome).collect(), wanted)
    }

    async fn release(&mut self, at: usize, target: Target) -> Result<(), Wrong> {
        let Some(held) = self.take_held(at) else {
            return Ok(());
        };
        let attempt = match target {
            Target::Retry => held.delivery.job.attempt + 1,
            Target::Failed => held.delivery.job.attempt,
            Target::Home => held.attempt,
        };
        let wanted = self.model.release(held.run, held.delivery.epoch, attempt, target);
        let settled = match target {
            Target::Retry => held.delivery.retry(DELAY, "boom \"|\" {}").await,
            Target::Failed => held.delivery.bury(BuryReason::MaxAttempts, "boom").await,
            Target::Home => held.delivery.hand_back().await,
        };
        same("released", outcome(settled?), wanted)
    }

    async fn rewrite(&mut self, at: usize) -> Result<(), Wrong> {
        let Some(mut held) = self.take_held(at) else {
            return Ok(());
        };
        let before = held.delivery.job.clone();
        held.delivery.job = before.next_attempt();
        let attempt = held.delivery.job.attempt;
        let wanted = self.model.rewrite(held.run, held.delivery.epoch, attempt);
        let settled = outcome(held.delivery.rewrite().await?);
        if settled == Outcome::Done {
            held.attempt = attempt;
        } else {
            held.delivery.job = before;
        }
        self.held.push(held);
        same("rewritten", settled, wanted)
    }

    async fn renew(&mut self, worker: usize, settled: bool) -> Result<(), Wrong> {
        let mine: Vec<&Held> = self.held.iter().filter(|held| held.worker == worker).collect();
        let claims: Vec<_> = mine
            .iter()
            .map(|held| queue::HeldClaim {
                step_settled: settled,
                ..held.delivery.claim()
            })
            .collect();
        let in_hand: Vec<InHand> = mine
            .iter()
            .map(|held| (held.run, held.delivery.epoch, held.attempt))
            .collect();
        let (seen, wanted) = self
            .model
            .renew(&in_hand, self.workers[worker].incarnation, settled);
        self.workers[worker].incarnation = Some(seen);
        let answers = self.workers[worker].renewer.renew(&claims, LEASE).await?;
        same("renewed", answers.into_iter().map(renewed).collect(), wanted)
    }

    fn expire(&mut self, at: usize) -> Result<(), Wrong> {
        let order = self.model.count();
        let Some((run, expiry)) = nth(&mut self.model.leases, at) else {
            return Ok(());
        };
        *expiry = order;
        self.set_score("lease", run, order)
    }

    fn come_due(&mut self, at: usize) -> Result<(), Wrong> {
        let order = self.model.count();
        let Some((run, due)) = nth(&mut self.model.due, at) else {
            return Ok(());
        };
        *due = order;
        self.set_score("retry:due", run, order)
    }

    fn set_score(&mut self, suffix: &str, run: Run, score: u64) -> Result<(), Wrong> {
        let id = self.runs.iter().find(|(_, other)| **other == run);
        let id = id.map(|(id, _)| id.clone()).unwrap();
        let changed = self
            .raw
            .call(&["ZADD", &self.key(suffix), "XX", "CH", &score.to_string(), &id]);
        same("moved", changed, Answer::Number(1))
    }

    async fn sweep(&mut self) -> Result<(), Wrong> {
        self.raw.call(&["DEL", &self.key("sweep")]);
        let swept = self.queue.maintenance().sweep().await?;
        let others = swept.map_or(0, |swept| swept.orphans + swept.restored + swept.dropped);
        same("mended", others, 0)?;
        same(
            "reclaimed",
            swept.map(|swept| swept.reclaimed),
            self.model.sweep(),
        )
    }

    async fn audit(&mut self) -> Result<(), Wrong> {
        let elements: usize = self.model.lists.values().map(Vec::len).sum();
        if elements != self.model.known.len() + self.model.undecodable {
            return Ok(()); // copies pushed by hand are an audit's to mend
        }
        let mut maintenance = self.queue.maintenance();
        for _ in 0..2 {
            same("mended", maintenance.audit().await?, 0)?;
        }
        Ok(())
    }

    async fn dead_letter(&mut self, at: usize, requeue: bool) -> Result<(), Wrong> {
        let letters = self.queue.dead_letters(0, 100).await?;
        same("dead letters", letters.len(), self.model.list(List::Failed).len())?;
        if letters.is_empty() {
            return Ok(());
        }
        let at = at % letters.len();
        // Newest first here, last in the model.
        let items = self.model.list(List::Failed);
        let place = items.len() - 1 - at;
        let item = items[place].clone();
        let done = if requeue {
            self.queue.requeue_dead_letter(&letters[at]).await?
        } else {
            self.queue.drop_dead_letter(&letters[at]).await?
        };
        match item {
            Item::Job(run, _) if requeue => self.model.requeue(run),
            Item::Job(run, _) => {
                self.model.remove(run);
            }
            Item::Undecodable(_) if requeue => return same("requeued", done, false),
            _ => {
                self.model.list(List::Failed).remove(place);
                self.model.undecodable -= 1;
            }
        }
        same("done", done, true)
    }

    /// All that is in Redis, in one round trip.
    fn compare(&mut self) -> Result<(), Wrong> {
        let keys: Vec<String> = LISTS.iter().map(|(_, suffix, _)| self.key(suffix)).collect();
        let others = ["meta", "body", "lease", "retry:due", "retry:place"].map(|suffix| self.key(suffix));
        let mut commands: Vec<Vec<&str>> = keys.iter().map(|key| vec!["LRANGE", key, "0", "-1"]).collect();
        commands.push(vec!["HGETALL", &others[0]]);
        commands.push(vec!["HLEN", &others[1]]);
        commands.push(vec!["ZRANGE", &others[2], "0", "-1", "WITHSCORES"]);
        commands.push(vec!["ZRANGE", &others[3], "0", "-1", "WITHSCORES"]);
        commands.push(vec!["HGETALL", &others[4]]);
        let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
        let answers = self.raw.pipeline(&commands);
        for ((list, suffix, _), answer) in LISTS.iter().zip(&answers) {
            let mut found: Vec<Item> = answer.texts().iter().map(|element| item_of(element)).collect();
            found.reverse();
            same(suffix, &found, self.model.lists.get(list).unwrap_or(&Vec::new()))?;
        }
        self.compare_metas(&answers[5].pairs())?;
        let known = self.model.known.len() + self.model.undecodable;
        same("bodies", answers[6].text(), known.to_string())?;
        same("leases", self.scores(&answers[7]), self.model.leases.clone())?;
        same("due", self.scores(&answers[8]), self.model.due.clone())?;
        let retries = self.model.list(List::Retry).iter().zip(1..);
        let places = retries.filter_map(|(item, place)| match item {
            Item::Job(run, _) => Some((*run, place)),
            _ => None,
        });
        let places = places.collect();
        same("places", self.scores(&answers[9]), places)
    }

    fn compare_metas(&self, metas: &[(String, String)]) -> Result<(), Wrong> {
        same(
            "metas",
            metas.len(),
            self.model.known.len() + self.model.undecodable,
        )?;
        for (id, meta) in metas {
            let Some(known) = self.runs.get(id).and_then(|run| self.model.known.get(run)) else {
                same(
                    "list of what is undecodable",
                    meta.split('|').nth(2),
                    Some("failed"),
                )?;
                continue;
            };
            let code = |list: List| LISTS.iter().find(|(name, ..)| *name == list).unwrap().2;
            let wanted = format!(
                "{}|{}|{}|{}",
                known.epoch,
                known.deliveries,
                code(known.list),
                code(known.home)
            );
            let found: Vec<&str> = meta.split('|').take(4).collect();
            same("meta", found.join("|"), wanted)?;
        }
        Ok(())
    }

    /// Scores as the model has them: small ones are set by hand, others lie in the future.
    fn scores(&self, answer: &Answer) -> BTreeMap<Run, u64> {
        let score = |text: &str| {
            text.parse::<f64>()
                .map_or(0, |score| if score < 1e6 { score as u64 } else { 0 })
        };
        let pairs = answer.pairs();
        pairs.iter().map(|(id, at)| (self.runs[id], score(at))).collect()
    }
}

async fn worker(queue: &Queue, options: &RedisOptions, number: usize) -> Worker {
    let id = WorkerId::from(format!("w{number}").as_str());
    let consumer = ConsumerOptions {
        lease: LEASE,
        longest_wait: Duration::from_secs(5),
        ids: Arc::new(SystemIds),
    };
    let renewer = Renewer::connect(options, id.clone(), Arc::new(SystemIds)).unwrap();
    eventually(LONG, async || renewer.is_connected()).await;
    let consumer = queue.consumer(id, consumer).unwrap();
    // A lost answer needs a script that the server knows.
    consumer.claim(1).await.unwrap();
    Worker {
        consumer,
        renewer,
        claims: 1,
        lost: Vec::new(),
        incarnation: None,
    }
}

fn nth(scores: &mut BTreeMap<Run, u64>, at: usize) -> Option<(Run, &mut u64)> {
    let size = scores.len().max(1);
    scores.iter_mut().nth(at % size).map(|(run, score)| (*run, score))
}

fn outcome(settled: Settled) -> Outcome {
    match settled {
        Settled::Done => Outcome::Done,
        Settled::Stale => Outcome::Stale,
        Settled::Gone => Outcome::Gone,
    }
}

fn renewed(renewal: Renewal) -> Renewed {
    match renewal {
        Renewal::Held => Renewed::Held,
        Renewal::Readopted => Renewed::Readopted,
        Renewal::Lost => Renewed::Lost,
    }
}
