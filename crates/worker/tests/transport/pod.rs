//! What a supervisor does with an order, in few words.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use toolbox::pack::{PackError, Packed, Packer, Sink, Wanted, unpack};
use toolbox::tree::{self, Before, Placer};
use toolbox::wire::{Delta, Durations, Ending, Limits, Manifest, Order, Record, Stream, VERSION};

pub(crate) struct Pod {
    pub(crate) order: Order,
    pub(crate) manifest: Manifest,
    dir: TempDir,
}

struct Files<'a, 'b>(&'a mut Placer<'b>);

impl Sink for Files<'_, '_> {
    fn wants(&self, sha256: &str) -> Wanted {
        self.0.wants(sha256).map_or(Wanted::Skip, Wanted::Yes)
    }

    fn take(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError> {
        self.0.place(sha256, content)
    }
}

async fn get(url: &str) -> Vec<u8> {
    let answer = reqwest::get(url).await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.bytes().await.unwrap().to_vec()
}

pub(crate) async fn put(url: &str, content: Vec<u8>) {
    let answer = reqwest::Client::new()
        .put(url)
        .body(content)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
}

pub(crate) fn pack(contents: &BTreeMap<String, Vec<u8>>) -> (Vec<u8>, Packed) {
    let mut packer = Packer::new(vec![]).unwrap();
    for (sha256, content) in contents {
        packer
            .add(sha256, content.len() as u64, content.as_slice())
            .unwrap();
    }
    packer.finish().unwrap()
}

impl Pod {
    /// Fetches the workspace.
    pub(crate) async fn start(order: Order) -> Self {
        let manifest: Manifest = serde_json::from_slice(&get(&order.manifest_url).await).unwrap();
        tree::check(&manifest.files, &order.limits).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut placer = Placer::new(dir.path(), &manifest.files);
        for pack in &manifest.packs {
            let announced = Packed {
                sha256: pack.sha256.clone(),
                bytes: pack.bytes,
                unpacked_bytes: pack.unpacked_bytes,
            };
            let archive = get(&pack.url).await;
            unpack(archive.as_slice(), &announced, &mut Files(&mut placer)).unwrap();
        }
        assert_eq!(placer.missing(), None);
        Self { order, manifest, dir }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn limits(&self) -> Limits {
        self.order.limits
    }

    pub(crate) fn record(&self, ending: Ending) -> Record {
        Record {
            version: VERSION,
            spec_hash: self.order.spec_hash.clone(),
            job_uid: self.order.job_uid.clone(),
            ending,
            out_of_memory: None,
            durations: Durations::default(),
            stdout: Stream::default(),
            stderr: Stream::default(),
            delta: None,
            warnings: vec![],
            unkept: None,
        }
    }

    /// Lets `tool` work on the files, and stores what it left.
    pub(crate) async fn run(&self, tool: impl FnOnce(&Path)) -> Record {
        let before = Before::look(self.dir.path(), &self.manifest.files, &self.limits()).unwrap();
        tool(self.dir.path());
        let changes = tree::changes(self.dir.path(), &before, &self.limits()).unwrap();
        let mut contents = BTreeMap::new();
        for (sha256, (path, _)) in changes.contents() {
            contents.insert(sha256.to_owned(), std::fs::read(self.path(path)).unwrap());
        }
        let mut delta = Delta {
            added: changes.added,
            changed: changes.changed,
            deleted: changes.deleted,
            ..Delta::default()
        };
        if !contents.is_empty() {
            let (archive, packed) = pack(&contents);
            (delta.sha256, delta.bytes, delta.unpacked_bytes) =
                (packed.sha256, packed.bytes, packed.unpacked_bytes);
            put(&self.order.put.delta, archive).await;
        }
        let mut record = self.record(Ending::Exited { code: 0 });
        record.unkept = changes.fault;
        record.delta = Some(delta);
        self.store(&record).await;
        record
    }

    /// Also an output.
    pub(crate) async fn prints(&self, record: &mut Record, stdout: &[u8]) {
        put(&self.order.put.stdout, stdout.to_vec()).await;
        record.stdout.bytes = stdout.len() as u64;
        self.store(record).await;
    }

    pub(crate) async fn store(&self, record: &Record) {
        put(&self.order.put.record, serde_json::to_vec(record).unwrap()).await;
    }
}
