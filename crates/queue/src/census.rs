//! Reading the whole queue, and what is wrong with it by Redis alone.
//!
//! The reading is not atomic: a job that moves meanwhile may look astray. So nobody acts on one census: a fault
//! counts when two in a row show it, and the script that mends it checks it again where nothing can move.

use crate::connection::{Patience, measured};
use crate::error::QueueError;
use crate::keys::ListName;
use crate::rebuild::{job_id_in, scan_hash};
use crate::store::Store;
use domain::{JobId, RunId};
use fred::interfaces::{ListInterface, SortedSetsInterface};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Elements read per call.
const PAGE: usize = 1000;

/// An element of one of the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub list: ListName,
    /// The text as it stands in Redis.
    pub raw: Vec<u8>,
    /// The id it names; nothing in a text pushed by hand without one.
    pub job_id: Option<JobId>,
    /// The run it names; nothing in an undecodable one.
    pub run_id: Option<RunId>,
    /// False: put there by hand and not claimed yet.
    pub known: bool,
}

/// A lease in `jobs:lease`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    pub job_id: String,
    pub run_id: Option<RunId>,
    /// The claim it belongs to.
    pub epoch: i64,
    /// Worker id, or the worker id and the number of the claim behind a `#`.
    pub owner: String,
}

impl HeldLease {
    /// The worker's id, as far as the stamp of a claim shows it.
    pub fn worker(&self) -> &str {
        self.owner
            .rsplit_once('#')
            .map_or(&self.owner, |(worker, _)| worker)
    }
}

/// Something astray in the queue by itself. Ids are texts, since a hand may have written anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Known, but in no list.
    Lost { id: String },
    /// In a list, and only half of what belongs to it is there.
    Torn {
        id: String,
        list: ListName,
        raw: Vec<u8>,
    },
    /// In another list than the queue put it.
    WrongList {
        id: String,
        list: ListName,
        raw: Vec<u8>,
    },
    /// More than one element of one job.
    Doubled {
        id: String,
        list: ListName,
        raw: Vec<u8>,
    },
    /// In the retry list without a due time.
    NotDue { raw: Vec<u8> },
    /// A due time of a job that does not wait for one.
    StrayDue { id: String },
    /// In `jobs:processing` without a lease.
    Unleased { raw: Vec<u8> },
    /// A lease of a job that is not in `jobs:processing`.
    StrayLease { id: String },
}

impl Fault {
    /// One word for reports.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Torn { .. } => "torn",
            Self::WrongList { .. } => "wrong_list",
            Self::Doubled { .. } => "doubled",
            Self::NotDue { .. } => "not_due",
            Self::StrayDue { .. } => "stray_due",
            Self::Unleased { .. } => "unleased",
            Self::StrayLease { .. } => "stray_lease",
        }
    }

    /// The job it is about, as far as it is known.
    pub fn job_id(&self) -> Option<String> {
        match self {
            Self::Lost { id }
            | Self::Torn { id, .. }
            | Self::WrongList { id, .. }
            | Self::Doubled { id, .. }
            | Self::StrayDue { id }
            | Self::StrayLease { id } => Some(id.clone()),
            Self::NotDue { raw } | Self::Unleased { raw } => job_id_in(raw),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    list: ListName,
    epoch: i64,
    owner: String,
}

/// The queue as it was read.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// All elements, list by list.
    pub elements: Vec<Element>,
    metas: HashMap<String, Option<Known>>,
    bodies: HashMap<String, Vec<u8>>,
    due: HashSet<String>,
    leased: HashSet<String>,
}

#[derive(Deserialize)]
struct Named {
    run_id: RunId,
}

pub(crate) fn run_id_in(raw: &[u8]) -> Option<RunId> {
    serde_json::from_slice::<Named>(raw)
        .ok()
        .map(|named| named.run_id)
}

impl Census {
    /// Reads everything, in pages.
    pub(crate) async fn read(store: &Store) -> Result<Self, QueueError> {
        let mut census = Self::default();
        for list in ListName::ALL {
            for raw in elements(store, list).await? {
                let job_id = job_id_in(&raw).and_then(|id| id.parse().ok());
                let run_id = run_id_in(&raw);
                census.elements.push(Element {
                    list,
                    raw,
                    job_id,
                    run_id,
                    known: false,
                });
            }
        }
        census.due = members(store, "retry:due").await?;
        census.leased = members(store, "lease").await?;
        census.bodies = hash(store, "body").await?.into_iter().collect();
        let metas = hash(store, "meta").await?.into_iter();
        census.metas = metas.map(|(id, meta)| (id, known(&meta))).collect();
        for element in &mut census.elements {
            let meta = job_id_in(&element.raw).and_then(|id| census.metas.get(&id));
            let is_taken_out = |known: &Option<Known>| {
                let noted = known.as_ref().map(|known| known.list);
                noted == Some(ListName::Failed) && element.list != ListName::Failed
            };
            element.known = meta.is_some_and(|known| !is_taken_out(known));
        }
        Ok(census)
    }

    /// Every lease with whom it belongs to; those of unknown jobs are [`Fault::StrayLease`].
    pub fn leases(&self) -> Vec<HeldLease> {
        let lease = |id: &String| {
            let known = self.metas.get(id)?.as_ref()?;
            Some(HeldLease {
                job_id: id.clone(),
                run_id: self.run_of(id),
                epoch: known.epoch,
                owner: known.owner.clone(),
            })
        };
        self.leased.iter().filter_map(lease).collect()
    }

    /// The run of a known job.
    pub fn run_of(&self, id: &str) -> Option<RunId> {
        self.bodies.get(id).and_then(|body| run_id_in(body))
    }

    /// What is astray, in a stable order.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut places: BTreeMap<String, Vec<&Element>> = BTreeMap::new();
        for element in &self.elements {
            match job_id_in(&element.raw) {
                Some(id) => places.entry(id).or_default().push(element),
                None if element.list == ListName::Retry => {
                    faults.push(Fault::NotDue {
                        raw: element.raw.clone(),
                    });
                }
                None => {}
            }
        }
        for (id, found) in &places {
            self.judge(id, found, &mut faults);
        }
        let unlisted = |id: &&String| !places.contains_key(*id) && !self.leased.contains(*id);
        let known: HashSet<&String> = self.metas.keys().chain(self.bodies.keys()).collect();
        faults.extend(
            known
                .into_iter()
                .filter(unlisted)
                .map(|id| Fault::Lost { id: id.clone() }),
        );
        self.judge_times(&mut faults);
        faults.sort();
        faults.dedup();
        faults
    }

    /// The elements of one job.
    fn judge(&self, id: &str, found: &[&Element], faults: &mut Vec<Fault>) {
        let (meta, body) = (self.metas.get(id).and_then(Option::as_ref), self.bodies.get(id));
        let is_leased = self.leased.contains(id);
        for element in found {
            let (id, list, raw) = (id.to_owned(), element.list, element.raw.clone());
            match (meta, body) {
                _ if list == ListName::Processing && !is_leased => {}
                (None, None) if list == ListName::Retry => faults.push(Fault::NotDue { raw }),
                (None, None) => {}
                (None, _) | (_, None) => faults.push(Fault::Torn { id, list, raw }),
                (Some(_), Some(body)) if *body != raw => faults.push(Fault::Doubled { id, list, raw }),
                (Some(known), _) if known.list == list => {
                    if list == ListName::Retry && !self.due.contains(&id) {
                        faults.push(Fault::NotDue { raw });
                    }
                }
                // A dead letter an operator put in a line is a job like any other.
                (Some(known), _) if known.list == ListName::Failed => {}
                _ if found.len() > 1 => faults.push(Fault::Doubled { id, list, raw }),
                _ => faults.push(Fault::WrongList { id, list, raw }),
            }
        }
        let mut seen = HashSet::new();
        let twice = found
            .iter()
            .filter(|element| !seen.insert((element.list, &element.raw)));
        let known = twice.filter(|_| meta.is_some() && body.is_some());
        faults.extend(known.map(|element| Fault::Doubled {
            id: id.to_owned(),
            list: element.list,
            raw: element.raw.clone(),
        }));
    }

    /// Due times and leases against the lists.
    fn judge_times(&self, faults: &mut Vec<Fault>) {
        let texts: HashSet<(ListName, &[u8])> =
            self.elements.iter().map(|e| (e.list, e.raw.as_slice())).collect();
        let is_in = |id: &str, list| {
            let body = self.bodies.get(id);
            body.is_some_and(|body| texts.contains(&(list, body.as_slice())))
        };
        for id in self.due.iter().filter(|id| !is_in(id, ListName::Retry)) {
            faults.push(Fault::StrayDue { id: id.clone() });
        }
        for id in self.leased.iter().filter(|id| !is_in(id, ListName::Processing)) {
            faults.push(Fault::StrayLease { id: id.clone() });
        }
        let held: HashSet<&Vec<u8>> = self.leased.iter().filter_map(|id| self.bodies.get(id)).collect();
        let processing = self
            .elements
            .iter()
            .filter(|element| element.list == ListName::Processing);
        let unleased = processing.filter(|element| !held.contains(&element.raw));
        faults.extend(unleased.map(|element| Fault::Unleased {
            raw: element.raw.clone(),
        }));
    }
}

/// List, epoch and owner of a `jobs:meta` value; nothing when it is none of ours.
fn known(meta: &[u8]) -> Option<Known> {
    let parts: Vec<&str> = std::str::from_utf8(meta).ok()?.splitn(7, '|').collect();
    let [epoch, _, list, _, _, _, owner] = parts[..] else {
        return None;
    };
    Some(Known {
        list: ListName::from_code(list)?,
        epoch: epoch.parse().ok()?,
        owner: owner.to_owned(),
    })
}

async fn elements(store: &Store, list: ListName) -> Result<Vec<Vec<u8>>, QueueError> {
    let mut all = Vec::new();
    loop {
        let client = store.connection().with(Patience::Normal);
        let from = all.len() as i64;
        let range = client.lrange(store.keys().list(list), from, from + PAGE as i64 - 1);
        let page: Vec<Vec<u8>> = measured("census", range).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

async fn members(store: &Store, suffix: &str) -> Result<HashSet<String>, QueueError> {
    let mut all = HashSet::new();
    let mut from = 0;
    loop {
        let client = store.connection().with(Patience::Normal);
        let key = store.keys().named(suffix);
        let range = client.zrange(key, from, from + PAGE as i64 - 1, None, false, None, false);
        let page: Vec<String> = measured("census", range).await?;
        let is_last = page.len() < PAGE;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
        from += PAGE as i64;
    }
}

async fn hash(store: &Store, suffix: &str) -> Result<Vec<(String, Vec<u8>)>, QueueError> {
    let mut all = Vec::new();
    let mut cursor = String::from("0");
    loop {
        let (next, page) = scan_hash(store, suffix, &cursor, PAGE).await?;
        all.extend(page);
        if next == "0" {
            return Ok(all);
        }
        cursor = next;
    }
}
