use crate::pod::{pack, put};
use crate::rounds::pod;
use crate::setup::{MIB, SPEC, start, tree};
use agent::ports::SandboxError;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use toolbox::wire::{Delta, File, Record};

fn file(content: &[u8]) -> File {
    File {
        sha256: format!("{:x}", Sha256::digest(content)),
        bytes: content.len() as u64,
        mode: 0o600,
    }
}

fn delta(record: &mut Record) -> &mut Delta {
    record.delta.as_mut().unwrap()
}

fn add(record: &mut Record, path: &str) {
    delta(record).added.insert(path.to_owned(), file(b"new"));
}

type Change = fn(&mut Record);

/// What a pod could say if its supervisor were somebody else.
const LIES: [(&str, Change); 22] = [
    ("Invalid path: ../x", |record| add(record, "../x")),
    ("Invalid path: /x", |record| add(record, "/x")),
    ("Invalid path: a/../../x", |record| add(record, "a/../../x")),
    ("Invalid path: .agent/packs/index.json", |record| {
        add(record, ".agent/packs/index.json");
    }),
    ("Invalid path: a/.AGENT/x", |record| add(record, "a/.AGENT/x")),
    ("Invalid path: a\\b", |record| add(record, "a\\b")),
    ("Invalid path: a\0b", |record| add(record, "a\0b")),
    ("Invalid path: a//b", |record| add(record, "a//b")),
    ("Invalid path: ./a", |record| add(record, "./a")),
    ("Invalid path: ", |record| add(record, "")),
    ("Invalid path: new/x", |record| add(record, "new/x")),
    ("Invalid path: ../../other/runs/x/file", |record| {
        delta(record).deleted.push("../../other/runs/x/file".to_owned());
    }),
    ("Invalid path: .agent/steps", |record| {
        delta(record).deleted.push(".agent/steps".to_owned());
    }),
    ("two fates", |record| delta(record).deleted.push("new".to_owned())),
    ("two fates", |record| {
        drop(delta(record).changed.insert("new".to_owned(), file(b"new")));
    }),
    ("two fates", |record| {
        delta(record).deleted = vec!["old".to_owned(); 2];
    }),
    ("Workspace limit exceeded", |record| {
        let large = File {
            bytes: 9 * MIB,
            ..file(b"large")
        };
        delta(record).added.insert("large".to_owned(), large);
    }),
    ("Workspace limit exceeded", |record| {
        let large = |number: u8| File {
            bytes: 8 * MIB,
            ..file(&[number])
        };
        delta(record)
            .added
            .extend((0..8).map(|number| (number.to_string(), large(number))));
    }),
    ("is not in it", |record| {
        drop(delta(record).added.insert("more".to_owned(), file(b"more")));
    }),
    ("nobody asked for", |record| {
        drop(delta(record).added.remove("new"));
    }),
    ("its hash is wrong", |record| {
        delta(record).sha256 = file(b"other").sha256;
    }),
    ("larger than announced", |record| {
        delta(record).unpacked_bytes = 512;
    }),
];

#[tokio::test]
async fn a_delta_that_no_supervisor_writes_is_refused_and_nothing_of_it_is_applied() {
    let setup = start().await;
    setup.put("old", b"old").await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let honest = played
        .run(|dir| {
            std::fs::write(dir.join("new"), "new").unwrap();
            std::fs::write(dir.join("other"), "other").unwrap();
        })
        .await;
    let before = setup.objects.list(setup.files.prefix()).await.unwrap();
    for (number, (told, lie)) in LIES.into_iter().enumerate() {
        let mut record = honest.clone();
        lie(&mut record);
        let error = setup.transport.collect(&request, &record).await.expect_err(told);
        assert!(matches!(error, SandboxError::Workspace(_)), "{number}: {error}");
        assert!(error.to_string().contains(told), "{number} {told}: {error}");
        assert_eq!(
            setup.objects.list(setup.files.prefix()).await.unwrap(),
            before,
            "{number} {told}"
        );
    }
    for uid in ["", "../uid", "a/b", "a b"] {
        let mut record = honest.clone();
        record.job_uid = uid.to_owned();
        assert!(setup.transport.collect(&request, &record).await.is_err(), "{uid}");
    }
    // The honest one is still good.
    setup.transport.collect(&request, &honest).await.unwrap();
    assert_eq!(
        setup.all().await,
        tree(&[("new", b"new"), ("old", b"old"), ("other", b"other")])
    );
}

#[tokio::test]
async fn an_archive_that_was_exchanged_or_is_gone_is_refused() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let honest = played
        .run(|dir| std::fs::write(dir.join("new"), "new").unwrap())
        .await;
    let other = BTreeMap::from([(file(b"evil").sha256, b"evil".to_vec())]);
    put(&played.order.put.delta, pack(&other).0).await;
    assert!(setup.transport.collect(&request, &honest).await.is_err());
    // Announced as it is, it still is not what the files are said to be.
    let (archive, packed) = pack(&other);
    put(&played.order.put.delta, archive).await;
    let mut lying = honest.clone();
    let said = delta(&mut lying);
    (said.sha256, said.bytes, said.unpacked_bytes) = (packed.sha256, packed.bytes, packed.unpacked_bytes);
    let error = setup.transport.collect(&request, &lying).await.unwrap_err();
    assert!(error.to_string().contains("nobody asked for"), "{error}");
    let key = format!(
        "{}.agent/steps/{}/uid-1/delta.tar.zst",
        setup.files.prefix(),
        request.step_id
    );
    setup.objects.delete(&[key]).await.unwrap();
    let error = setup.transport.collect(&request, &honest).await.unwrap_err();
    assert!(matches!(error, SandboxError::Workspace(_)), "{error}");
    assert!(setup.all().await.is_empty());
    assert_eq!(
        setup.transport.record(&request, SPEC).await.unwrap(),
        Some(honest)
    );
}

/// A zstd frame of zeros, 128 KiB in each block of four bytes.
fn zeros(mib: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let blocks = mib * 8;
    for block in 1..=blocks {
        let is_last = u32::from(block == blocks);
        let header = (128 * 1024) << 3 | 1 << 1 | is_last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[tokio::test]
async fn an_archive_that_swells_behind_its_files_is_refused_before_it_is_read() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let honest = played
        .run(|dir| std::fs::write(dir.join("new"), "new").unwrap())
        .await;
    let (mut archive, packed) = pack(&BTreeMap::from([(file(b"new").sha256, b"new".to_vec())]));
    archive.extend(zeros(16));
    let mut lying = honest.clone();
    let said = delta(&mut lying);
    said.sha256 = file(&archive).sha256;
    said.bytes = archive.len() as u64;
    said.unpacked_bytes = packed.unpacked_bytes + 16 * MIB;
    put(&played.order.put.delta, archive).await;
    let error = setup.transport.collect(&request, &lying).await.unwrap_err();
    assert!(error.to_string().contains("larger than its files"), "{error}");
    assert!(setup.all().await.is_empty());
}
