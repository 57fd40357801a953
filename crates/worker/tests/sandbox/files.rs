use crate::setup::{RUN, permissions, shell, start, start_on, user};
use agent::ports::{SandboxError, WorkspaceError};
use bytes::Bytes;
use domain::SystemClock;
use std::sync::Arc;
use worker::workspace::{MemoryObjects, Objects, Workspaces};

#[tokio::test]
async fn files_go_in_and_changes_come_out() {
    let setup = start().await;
    for (path, text) in [
        ("keep.txt", "keep"),
        ("dir/change.txt", "old"),
        ("gone.txt", "x"),
        ("same.txt", "same"),
    ] {
        setup
            .files
            .write(path, Bytes::from_static(text.as_bytes()))
            .await
            .unwrap();
    }
    let command = "cat keep.txt; echo new > dir/change.txt; rm gone.txt; mkdir -p a/b; echo 1 > a/b/c.json; cp same.txt t; mv t same.txt";
    let output = setup.sh(command).await;
    assert_eq!(
        (output.stdout.as_str(), output.exit_code),
        ("keep", Some(0)),
        "{}",
        output.stderr
    );
    let artifacts: Vec<&str> = output
        .artifacts
        .iter()
        .map(|file| file.file_path.as_str())
        .collect();
    assert_eq!(artifacts, ["a/b/c.json", "dir/change.txt"]);
    let json = &output.artifacts[0];
    assert_eq!((json.file_size, json.mime_type.as_str()), (2, "application/json"));
    assert_eq!(json.storage_key, format!("users/user-1/runs/{RUN}/a/b/c.json"));
    assert_eq!(
        json.content_hash,
        "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"
    );
    assert_eq!(
        setup.names().await,
        ["a/b/c.json", "dir/change.txt", "keep.txt", "same.txt"]
    );
    assert_eq!(setup.read("dir/change.txt").await, "new\n");
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn links_are_neither_followed_nor_stored() {
    let setup = start().await;
    let outside = tempfile::Builder::new()
        .permissions(permissions(0o755))
        .tempdir()
        .unwrap();
    std::fs::write(outside.path().join("secret"), "top").unwrap();
    let target = outside.path().display();
    let command = format!(
        "ln -s {target}/secret a; ln -s {target} d; ln -s /etc/passwd p; ln -s ../../../../etc/shadow r; mkfifo f; echo x > real; ln real hard"
    );
    let output = setup.sh(&command).await;
    assert_eq!(output.exit_code, Some(0), "{}", output.stderr);
    assert_eq!(setup.names().await, ["hard", "real"]);
}

#[tokio::test]
async fn a_file_that_became_a_link_is_gone_from_the_store() {
    let setup = start().await;
    setup
        .files
        .write("doc", Bytes::from_static(b"mine"))
        .await
        .unwrap();
    setup.sh("rm doc; ln -s /etc/passwd doc").await;
    assert!(setup.names().await.is_empty());
}

#[tokio::test]
async fn removed_permissions_hide_nothing_and_everything_is_removed() {
    let setup = start().await;
    setup.sh("mkdir d; echo x > d/f; chmod 0 d/f d").await;
    assert_eq!(setup.names().await, ["d/f"]);
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn our_own_directory_is_not_touched() {
    let setup = start().await;
    setup
        .sh("mkdir .agent; echo x > .agent/state; echo y > seen")
        .await;
    assert_eq!(setup.names().await, ["seen"]);
}

#[tokio::test]
async fn files_that_are_too_large_or_badly_named_fail_the_step_and_change_nothing() {
    let setup = start().await;
    let too_large = setup
        .run(&shell("echo x > fine; head -c 9000000 /dev/zero > large"))
        .await
        .unwrap_err();
    assert!(
        matches!(too_large, SandboxError::Workspace(WorkspaceError::LimitExceeded)),
        "{too_large}"
    );
    let bad = setup
        .run(&shell("echo x > fine; echo x > 'a\\b'"))
        .await
        .unwrap_err();
    assert_eq!(bad.to_string(), "Invalid path: a\\b");
    assert!(setup.names().await.is_empty());
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn without_a_store_the_workspace_starts_empty_and_says_so() {
    use clap::Parser;
    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        s3: worker::workspace::S3Options,
    }
    let options = Options::parse_from(["test"]).s3;
    let setup = start_on(Workspaces::from_options(&options)).await;
    let output = setup.sh("ls -A; echo x > y; cat y").await;
    assert_eq!(output.stdout, "x\n");
    assert!(output.ephemeral_workspace && output.artifacts.is_empty());
    assert_eq!(setup.sh("ls -A").await.stdout, "");
}

#[tokio::test]
async fn runs_do_not_see_each_other() {
    let objects = Objects::Memory(MemoryObjects::new(Arc::new(SystemClock)));
    let workspaces = Workspaces::on(objects, 1000, 1000);
    let other = workspaces.of_run(&user(), domain::RunId(uuid::Uuid::from_u128(99)));
    other.write("secret", Bytes::from_static(b"x")).await.unwrap();
    let setup = start_on(workspaces).await;
    assert_eq!(setup.sh("ls -A").await.stdout, "");
}
