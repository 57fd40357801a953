use crate::pod::Pod;
use crate::setup::{MIB, SPEC, Setup, VALID, start, tree};
use agent::ports::{Program, SandboxError, SandboxRequest};
use domain::tool::FileChangeKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use toolbox::wire::{Ending, ORDER_FILE, Record};
use worker::transport::Transport;
use worker::workspace::{S3Options, Workspaces};

/// Prepares, and plays the pod up to its start.
pub(crate) async fn pod(setup: &Setup, request: &SandboxRequest, uid: &str) -> Pod {
    let prepared = setup.transport.prepare(request, SPEC).await.unwrap();
    let order = setup
        .transport
        .order(&prepared, request, uid, VALID)
        .await
        .unwrap();
    Pod::start(order).await
}

async fn call(setup: &Setup, number: u128, tool: impl FnOnce(&Path)) -> agent::ports::SandboxOutput {
    let request = setup.step(number);
    pod(setup, &request, "uid-1").await.run(tool).await;
    let record = setup
        .transport
        .record(&request, SPEC)
        .await
        .unwrap()
        .expect("a record");
    setup.transport.collect(&request, &record).await.unwrap()
}

fn write(dir: &Path, path: &str, content: &[u8]) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn what_a_tool_leaves_is_in_the_store_with_its_type_and_told_by_path() {
    let setup = start().await;
    for (path, content) in [
        ("same.txt", b"same".as_slice()),
        ("old.txt", b"old"),
        ("gone.txt", b"gone"),
    ] {
        setup.put(path, content).await;
    }
    let output = call(&setup, 1, |dir| {
        write(dir, "old.txt", b"new");
        write(dir, "sub/page.html", b"<p>");
        std::fs::remove_file(dir.join("gone.txt")).unwrap();
    })
    .await;
    let expected = tree(&[
        ("old.txt", b"new"),
        ("same.txt", b"same"),
        ("sub/page.html", b"<p>"),
    ]);
    assert_eq!(setup.all().await, expected);
    let kinds: Vec<_> = output
        .changes
        .iter()
        .map(|change| (change.path.as_str(), change.change))
        .collect();
    assert_eq!(
        kinds,
        [
            ("gone.txt", FileChangeKind::Deleted),
            ("old.txt", FileChangeKind::Changed),
            ("sub/page.html", FileChangeKind::Added)
        ]
    );
    let page = &output.artifacts[1];
    assert_eq!(
        (page.file_path.as_str(), page.file_size, page.mime_type.as_str()),
        ("sub/page.html", 3, "text/html")
    );
    let head = setup
        .s3
        .client()
        .head_object()
        .bucket(setup.s3.bucket())
        .key(&page.storage_key);
    assert_eq!(head.send().await.unwrap().content_type(), Some("text/html"));
    assert_eq!((output.exit_code, output.ephemeral_workspace), (Some(0), false));
}

#[tokio::test]
async fn only_new_files_are_packed_and_a_delta_serves_as_the_next_input() {
    let setup = start().await;
    setup.put("a", b"1").await;
    call(&setup, 1, |dir| {
        write(dir, "run", b"#!/bin/sh");
        std::fs::set_permissions(dir.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    })
    .await;
    assert_eq!(setup.packs().await.len(), 1);
    setup.transport.forget(&setup.step(1)).await.unwrap();
    let second = pod(&setup, &setup.step(2), "uid-2").await;
    assert_eq!((setup.packs().await.len(), second.manifest.packs.len()), (1, 2));
    assert_eq!(second.manifest.files["run"].mode, 0o700);
    // A file written from elsewhere.
    setup.put("a", b"2").await;
    let third = pod(&setup, &setup.step(3), "uid-3").await;
    assert_eq!(std::fs::read(third.path("a")).unwrap(), b"2");
    assert_eq!(std::fs::read(third.path("run")).unwrap(), b"#!/bin/sh");
    assert_eq!(
        third.manifest.packs.len(),
        2,
        "the first pack has no file any more"
    );
}

#[tokio::test]
async fn preparing_twice_stores_nothing_new() {
    let setup = start().await;
    setup.put("a", b"1").await;
    let request = setup.step(1);
    let first = setup.transport.prepare(&request, SPEC).await.unwrap();
    let before = setup.objects.list(setup.files.prefix()).await.unwrap();
    let second = setup.transport.prepare(&request, SPEC).await.unwrap();
    assert_eq!(setup.objects.list(setup.files.prefix()).await.unwrap(), before);
    assert_eq!((first.len(), second.len(), second.is_empty()), (1, 1, false));
    // Another order for the same Job: the URLs of the first are still good.
    let one = setup
        .transport
        .order(&first, &request, "uid-1", VALID)
        .await
        .unwrap();
    setup
        .transport
        .order(&second, &request, "uid-1", VALID)
        .await
        .unwrap();
    assert_eq!(std::fs::read(Pod::start(one).await.path("a")).unwrap(), b"1");
}

#[tokio::test]
async fn a_damaged_index_costs_work_only() {
    let setup = start().await;
    setup.put("a", b"1").await;
    for damage in [
        b"{}".as_slice(),
        b"not JSON",
        b"{\"version\":9,\"files\":{},\"packs\":{}}",
    ] {
        setup.transport.prepare(&setup.step(1), SPEC).await.unwrap();
        setup.put(".agent/packs/index.json", damage).await;
        assert_eq!(
            std::fs::read(pod(&setup, &setup.step(1), "u").await.path("a")).unwrap(),
            b"1"
        );
    }
    // An archive that is gone is made again.
    for pack in setup.packs().await {
        let key = format!("{}{pack}", setup.files.prefix());
        setup.objects.delete(&[key]).await.unwrap();
    }
    assert_eq!(
        std::fs::read(pod(&setup, &setup.step(1), "u").await.path("a")).unwrap(),
        b"1"
    );
}

#[tokio::test]
async fn applying_again_after_a_crash_in_the_middle_ends_the_same() {
    let setup = start().await;
    for name in ["changed", "deleted"] {
        setup.put(name, b"before").await;
    }
    let request = setup.step(1);
    let record: Record = pod(&setup, &request, "uid-1")
        .await
        .run(|dir| {
            write(dir, "changed", b"after");
            write(dir, "added/a", b"a");
            write(dir, "added/b", b"b");
            std::fs::remove_file(dir.join("deleted")).unwrap();
        })
        .await;
    // Half of it was applied by somebody who died.
    setup.put("added/a", b"a").await;
    setup.put("changed", b"after").await;
    let found = setup.transport.record(&request, SPEC).await.unwrap();
    assert_eq!(found.as_ref(), Some(&record));
    let first = setup.transport.collect(&request, &record).await.unwrap();
    let files = setup.all().await;
    assert_eq!(
        files,
        tree(&[("added/a", b"a"), ("added/b", b"b"), ("changed", b"after")])
    );
    let second = setup.transport.collect(&request, &record).await.unwrap();
    assert_eq!(second, first);
    assert_eq!(setup.all().await, files);
}

#[tokio::test]
async fn a_tool_that_changed_nothing_stores_nothing() {
    let setup = start().await;
    setup.put("a", b"1").await;
    let output = call(&setup, 1, |_| ()).await;
    assert!(output.artifacts.is_empty() && output.changes.is_empty());
    assert!(!setup.keys().await.iter().any(|key| key.contains("delta")));
}

#[tokio::test]
async fn an_order_fits_into_a_secret_whatever_the_program() {
    let setup = start().await;
    let mut request = setup.step(1);
    for (bytes, in_order) in [(512 * 1024, true), (512 * 1024 + 1, false), (5_000_000, false)] {
        request.program = Program::Code {
            language: "python".to_owned(),
            code: "x".repeat(bytes),
        };
        let prepared = setup.transport.prepare(&request, SPEC).await.unwrap();
        let order = setup
            .transport
            .order(&prepared, &request, "uid-1", VALID)
            .await
            .unwrap();
        assert_eq!(order.program.is_some(), in_order);
        assert!(
            serde_json::to_vec(&order).unwrap().len() < 1024 * 1024,
            "{ORDER_FILE}"
        );
        assert_eq!(Pod::start(order).await.manifest.program.is_some(), !in_order);
    }
}

#[tokio::test]
async fn urls_are_for_this_runs_own_keys_and_one_method_each() {
    let setup = start().await;
    let request = setup.step(1);
    let prepared = setup.transport.prepare(&request, SPEC).await.unwrap();
    let order = setup
        .transport
        .order(&prepared, &request, "uid-1", VALID)
        .await
        .unwrap();
    let puts = &order.put;
    let all = [
        &puts.started,
        &puts.stdout,
        &puts.stderr,
        &puts.delta,
        &puts.record,
        &order.manifest_url,
        &order.mark_url,
    ];
    let own = format!(
        "/users/user%257C1/runs/{}/.agent/steps/{}/",
        setup.run, request.step_id
    );
    for url in all {
        assert!(url.contains(&own), "{url}");
    }
    let client = reqwest::Client::new();
    for url in [&puts.stdout, &puts.record] {
        assert_eq!(client.get(url).send().await.unwrap().status(), 403);
    }
    assert_eq!(
        client
            .put(&order.manifest_url)
            .body("x")
            .send()
            .await
            .unwrap()
            .status(),
        403
    );
    // The mark is written once, and only under that condition.
    assert_eq!(
        client.put(&puts.started).body("x").send().await.unwrap().status(),
        403
    );
    for status in [200, 412] {
        let put = client.put(&puts.started).header("if-none-match", "*").body("x");
        assert_eq!(put.send().await.unwrap().status(), status);
    }
    assert!(setup.transport.was_begun(&request, "uid-1").await.unwrap());
    assert!(!setup.transport.was_begun(&request, "uid-2").await.unwrap());
    let error = setup
        .transport
        .order(&prepared, &request, "../x", VALID)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no uid"), "{error}");
}

#[tokio::test]
async fn files_that_no_directory_can_hold_together_are_told() {
    let setup = start().await;
    setup.put("a", b"1").await;
    setup.put("a-b", b"1").await;
    setup.put("a/b", b"1").await;
    let error = setup.transport.prepare(&setup.step(1), SPEC).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Invalid path: a (it is a file, and a/b is below it)"
    );
    setup
        .objects
        .delete(&[format!("{}a", setup.files.prefix())])
        .await
        .unwrap();
    let long = "x".repeat(256);
    setup.put(&long, b"1").await;
    let error = setup.transport.prepare(&setup.step(1), SPEC).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Invalid path: {long} (a name in it is too long)")
    );
}

#[tokio::test]
async fn more_files_than_the_limit_are_not_sent() {
    let setup = start().await;
    let content = vec![0; 8 * MIB as usize];
    for number in 0..9 {
        setup.put(&number.to_string(), &content).await;
    }
    let error = setup.transport.prepare(&setup.step(1), SPEC).await.unwrap_err();
    assert_eq!(error.to_string(), "Workspace limit exceeded");
}

#[tokio::test]
async fn without_a_store_the_tool_says_what_to_set() {
    let setup = start().await;
    let args = ["x", "--s3-endpoint", "http://127.0.0.1:1"];
    let options = <Parsed as clap::Parser>::parse_from(args).s3;
    let transport = Transport::new(&Workspaces::from_options(&options), Arc::default());
    let error = transport.prepare(&setup.step(1), SPEC).await.unwrap_err();
    assert!(matches!(error, SandboxError::Unavailable(_)));
    assert_eq!(
        error.to_string(),
        "shell is not configured: set S3_ACCESS_KEY and S3_SECRET_KEY"
    );
}

#[derive(clap::Parser)]
struct Parsed {
    #[command(flatten)]
    s3: S3Options,
}

#[tokio::test]
async fn what_a_settled_step_needs_no_more_is_deleted() {
    let setup = start().await;
    setup.put("a", b"1").await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let mut record = played.run(|dir| write(dir, "new", b"new")).await;
    played.prints(&mut record, b"out").await;
    setup.transport.collect(&request, &record).await.unwrap();
    setup.transport.forget(&request).await.unwrap();
    let step = format!(".agent/steps/{}/", request.step_id);
    let left: Vec<String> = setup
        .keys()
        .await
        .into_iter()
        .filter(|key| key.starts_with(&step))
        .collect();
    assert_eq!(left, [format!("{step}uid-1/delta.tar.zst")]);
    assert!(setup.transport.record(&request, SPEC).await.unwrap().is_none());
    let next = pod(&setup, &setup.step(2), "uid-2").await;
    assert_eq!(std::fs::read(next.path("new")).unwrap(), b"new");
    assert_eq!(next.record(Ending::TimedOut).spec_hash, SPEC);
}
