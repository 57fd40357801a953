//! The state in memory: what the journal's records add up to.

use crate::record::{Content, Entry, Record, Upload};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A bucket and its objects by key, in the order of their UTF-8 bytes.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub created_ms: i64,
    pub objects: BTreeMap<String, Entry>,
}

/// Everything the store knows.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub buckets: BTreeMap<String, Bucket>,
    pub uploads: BTreeMap<Uuid, Upload>,
}

impl Index {
    /// Applies a change and gives back the blobs that are no longer reachable.
    pub(crate) fn apply(&mut self, record: Record) -> Vec<Uuid> {
        match record {
            Record::CreateBucket { bucket, at_ms } => {
                self.buckets.entry(bucket).or_default().created_ms = at_ms;
                vec![]
            }
            Record::DeleteBucket { bucket } => self.drop_bucket(&bucket),
            Record::Put { bucket, key, entry } => self.put(bucket, key, entry),
            Record::Delete { bucket, keys } => self.delete(&bucket, &keys),
            Record::Begin { id, upload } => {
                self.uploads.insert(id, upload);
                vec![]
            }
            Record::Part { id, number, content } => self.part(id, number, content),
            Record::Complete { id, entry } => self.complete(id, entry),
            Record::Abort { id } => self.uploads.remove(&id).map_or_else(Vec::new, |u| part_blobs(&u)),
        }
    }

    fn drop_bucket(&mut self, bucket: &str) -> Vec<Uuid> {
        let objects = self.buckets.remove(bucket).unwrap_or_default().objects;
        let mut dropped: Vec<Uuid> = objects.values().map(|entry| entry.content.blob).collect();
        self.uploads.retain(|_, upload| {
            let keep = upload.bucket != bucket;
            if !keep {
                dropped.extend(part_blobs(upload));
            }
            keep
        });
        dropped
    }

    fn put(&mut self, bucket: String, key: String, entry: Entry) -> Vec<Uuid> {
        let objects = &mut self.buckets.entry(bucket).or_default().objects;
        let old = objects.insert(key, entry);
        old.map(|old| old.content.blob).into_iter().collect()
    }

    fn delete(&mut self, bucket: &str, keys: &[String]) -> Vec<Uuid> {
        let Some(bucket) = self.buckets.get_mut(bucket) else {
            return vec![];
        };
        let removed = keys.iter().filter_map(|key| bucket.objects.remove(key));
        removed.map(|entry| entry.content.blob).collect()
    }

    fn part(&mut self, id: Uuid, number: i32, content: Content) -> Vec<Uuid> {
        let blob = content.blob;
        match self.uploads.get_mut(&id) {
            Some(upload) => {
                let old = upload.parts.insert(number, content);
                old.map(|old| old.blob).into_iter().collect()
            }
            None => vec![blob],
        }
    }

    fn complete(&mut self, id: Uuid, entry: Entry) -> Vec<Uuid> {
        let Some(upload) = self.uploads.remove(&id) else {
            return vec![entry.content.blob];
        };
        let mut dropped = part_blobs(&upload);
        dropped.extend(self.put(upload.bucket, upload.key, entry));
        dropped
    }

    /// Every blob that must be kept.
    pub(crate) fn reachable(&self) -> BTreeSet<Uuid> {
        let objects = self.buckets.values().flat_map(|bucket| bucket.objects.values());
        let parts = self.uploads.values().flat_map(part_blobs);
        objects.map(|entry| entry.content.blob).chain(parts).collect()
    }

    /// The shortest list of records that leads to this state.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let buckets = self.buckets.iter().flat_map(|(name, bucket)| {
            let create = Record::CreateBucket {
                bucket: name.clone(),
                at_ms: bucket.created_ms,
            };
            let puts = bucket.objects.iter().map(|(key, entry)| Record::Put {
                bucket: name.clone(),
                key: key.clone(),
                entry: entry.clone(),
            });
            std::iter::once(create).chain(puts)
        });
        let uploads = self.uploads.iter().map(|(id, upload)| Record::Begin {
            id: *id,
            upload: upload.clone(),
        });
        buckets.chain(uploads)
    }

    /// How many records [`Index::records`] gives.
    pub(crate) fn size(&self) -> usize {
        let objects: usize = self.buckets.values().map(|bucket| bucket.objects.len() + 1).sum();
        objects + self.uploads.len()
    }
}

fn part_blobs(upload: &Upload) -> Vec<Uuid> {
    upload.parts.values().map(|content| content.blob).collect()
}
