use crate::setup::{shell, start, start_on};
use agent::ports::{SandboxError, WorkspaceError};
use worker::workspace::Workspaces;

#[tokio::test]
async fn removed_permissions_hide_nothing_and_everything_is_removed() {
    let setup = start().await;
    setup.sh("mkdir d; echo x > d/f; chmod 0 d/f d").await;
    assert_eq!(setup.names().await, ["d/f"]);
    assert_eq!(setup.leftovers(), 0);
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
