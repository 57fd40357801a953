//! A store, and orders for it.

use crate::pod::Pod;
use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;
use testkit::S3;
use toolbox::pack::{PackError, Packed, Packer, Sink, Wanted, unpack};
use toolbox::wire::{File, Limits, Manifest, Order, Pack, Program, PutUrls, Record, VERSION};

pub(crate) const MIB: u64 = 1024 * 1024;

pub(crate) struct Bed {
    pub(crate) s3: S3,
    pub(crate) client: Client,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

pub(crate) fn shell(command: &str) -> Program {
    Program::Shell {
        command: command.to_owned(),
    }
}

pub(crate) fn file(content: &[u8]) -> File {
    File {
        sha256: sha256(content),
        bytes: content.len() as u64,
        mode: 0o600,
    }
}

/// An archive of contents.
pub(crate) fn pack<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Packed) {
    let mut packer = Packer::new(vec![]).unwrap();
    for content in contents {
        packer
            .add(&sha256(content), content.len() as u64, content)
            .unwrap();
    }
    packer.finish().unwrap()
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let s3 = S3::start().await;
        let client = s3.client();
        Self { s3, client }
    }

    fn expiry() -> PresigningConfig {
        PresigningConfig::expires_in(Duration::from_mins(10)).unwrap()
    }

    pub(crate) async fn get_url(&self, key: &str) -> String {
        let get = self.client.get_object().bucket(self.s3.bucket()).key(key);
        get.presigned(Self::expiry()).await.unwrap().uri().to_owned()
    }

    async fn put_url(&self, key: &str, once: bool) -> String {
        let put = self.client.put_object().bucket(self.s3.bucket()).key(key);
        let put = if once { put.if_none_match("*") } else { put };
        put.presigned(Self::expiry()).await.unwrap().uri().to_owned()
    }

    pub(crate) async fn mark_url(&self, key: &str) -> String {
        self.put_url(key, true).await
    }

    /// The same mark by another port.
    pub(crate) async fn mark_url_through(&self, port: u16) -> String {
        let config = self.client.config().to_builder();
        let config = config.endpoint_url(format!("http://127.0.0.1:{port}"));
        let put = Client::from_conf(config.build())
            .put_object()
            .bucket(self.s3.bucket());
        let put = put.key("run/step/uid/started").if_none_match("*");
        put.presigned(Self::expiry()).await.unwrap().uri().to_owned()
    }

    pub(crate) async fn put(&self, key: &str, content: Vec<u8>) {
        let put = self.client.put_object().bucket(self.s3.bucket()).key(key);
        put.body(ByteStream::from(content)).send().await.unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let got = self
            .client
            .get_object()
            .bucket(self.s3.bucket())
            .key(key)
            .send()
            .await;
        Some(got.ok()?.body.collect().await.unwrap().to_vec())
    }

    pub(crate) async fn put_pack(&self, archive: Vec<u8>, packed: Packed) -> Pack {
        let key = format!("run/packs/{}", packed.sha256);
        self.put(&key, archive).await;
        Pack {
            sha256: packed.sha256,
            bytes: packed.bytes,
            unpacked_bytes: packed.unpacked_bytes,
            url: self.get_url(&key).await,
        }
    }

    /// A manifest with these files in one pack.
    pub(crate) async fn manifest(&self, files: &[(&str, &[u8])]) -> Manifest {
        let mut manifest = Manifest {
            version: VERSION,
            ..Manifest::default()
        };
        if !files.is_empty() {
            let (archive, packed) = pack(files.iter().map(|(_, content)| *content));
            manifest.packs.push(self.put_pack(archive, packed).await);
        }
        let named = files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), file(content)));
        manifest.files = named.collect();
        manifest
    }

    pub(crate) async fn order_of(&self, program: Program, manifest: &Manifest) -> Order {
        let key = "run/step/manifest.json";
        self.put(key, serde_json::to_vec(manifest).unwrap()).await;
        let of = |name: &str| format!("run/step/uid/{name}");
        Order {
            version: VERSION,
            spec_hash: sha256(b"spec"),
            job_uid: "uid".to_owned(),
            program: Some(program),
            working_dir: "/workspace".to_owned(),
            timeout_ms: 30_000,
            manifest_url: self.get_url(key).await,
            mark_url: self.get_url(&of("started")).await,
            put: PutUrls {
                started: self.put_url(&of("started"), true).await,
                stdout: self.put_url(&of("stdout"), false).await,
                stderr: self.put_url(&of("stderr"), false).await,
                delta: self.put_url(&of("delta.tar.zst"), false).await,
                record: self.put_url(&of("result.json"), false).await,
            },
            limits: Limits {
                file_bytes: 25 * MIB,
                total_bytes: 1024 * MIB,
                files: 50_000,
                output_bytes: 256 * MIB,
            },
            ca_pem: None,
        }
    }

    pub(crate) async fn order(&self, command: &str) -> Order {
        self.order_of(shell(command), &self.manifest(&[]).await).await
    }

    /// Runs a command to its end with these files.
    pub(crate) async fn run(&self, command: &str, files: &[(&str, &[u8])]) -> Record {
        let order = self.order_of(shell(command), &self.manifest(files).await).await;
        self.carry_out(&order).await
    }

    pub(crate) async fn carry_out(&self, order: &Order) -> Record {
        let mut pod = Pod::start(order);
        let code = pod.end().await;
        assert_eq!(code, 0, "{}{}", pod.log(), pod.errors());
        self.record().await.expect("a record")
    }

    pub(crate) async fn record(&self) -> Option<Record> {
        let text = self.get("run/step/uid/result.json").await?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    pub(crate) async fn output(&self, name: &str) -> Vec<u8> {
        self.get(&format!("run/step/uid/{name}"))
            .await
            .unwrap_or_default()
    }

    /// The contents of the delta, by hash, checked as a worker does.
    pub(crate) async fn delta(&self, record: &Record) -> BTreeMap<String, Vec<u8>> {
        let delta = record.delta.as_ref().expect("a delta");
        let announced = Packed {
            sha256: delta.sha256.clone(),
            bytes: delta.bytes,
            unpacked_bytes: delta.unpacked_bytes,
        };
        let files = delta.added.values().chain(delta.changed.values());
        let mut contents = Contents {
            sizes: files.map(|file| (file.sha256.clone(), file.bytes)).collect(),
            found: BTreeMap::new(),
        };
        let archive = self.output("delta.tar.zst").await;
        if delta.bytes > 0 {
            unpack(archive.as_slice(), &announced, &mut contents).unwrap();
        }
        assert_eq!(contents.found.len(), contents.sizes.len());
        contents.found
    }
}

struct Contents {
    sizes: BTreeMap<String, u64>,
    found: BTreeMap<String, Vec<u8>>,
}

impl Sink for Contents {
    fn wants(&self, sha256: &str) -> Wanted {
        self.sizes.get(sha256).copied().map_or(Wanted::No, Wanted::Yes)
    }

    fn take(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError> {
        let mut bytes = vec![];
        content.read_to_end(&mut bytes)?;
        self.found.insert(sha256.to_owned(), bytes);
        Ok(())
    }
}
