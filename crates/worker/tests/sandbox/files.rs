use crate::setup::{shell, start, start_on};
use worker::workspace::Workspaces;

#[tokio::test]
async fn removed_permissions_hide_nothing_and_everything_is_removed() {
    let setup = start().await;
    setup.sh("mkdir d; echo x > d/f; chmod 0 d/f d").await;
    assert_eq!(setup.names().await, ["d/f"]);
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn what_is_too_large_or_badly_named_fails_the_step_and_the_output_stays() {
    let setup = start().await;
    let too_large = setup
        .run(&shell(
            "echo x > fine; head -c 9000000 /dev/zero > large; echo done",
        ))
        .await
        .unwrap();
    assert_eq!(too_large.unkept.as_deref(), Some("Workspace limit exceeded"));
    assert_eq!(
        (too_large.stdout.as_str(), too_large.exit_code),
        ("done\n", Some(0))
    );
    assert!(setup.names().await.is_empty());
    let odd = "echo x > fine; echo x > 'a\\b'; echo x > \"$(printf 'f\\377')\"; echo done";
    let bad = setup.run(&shell(odd)).await.unwrap();
    assert_eq!(bad.unkept.as_deref(), Some("Invalid path: a\\b, f\u{fffd}"));
    assert_eq!((bad.stdout.as_str(), bad.exit_code), ("done\n", Some(0)));
    assert_eq!(bad.artifacts.len(), 1);
    assert_eq!(setup.names().await, ["fine"]);
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn a_program_stays_one_over_steps() {
    let setup = start().await;
    setup
        .sh("printf '#!/bin/sh\\necho ran\\n' > r.sh; chmod +x r.sh")
        .await;
    let output = setup.sh("./r.sh").await;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("ran\n", ""));
    assert!(output.changes.is_empty());
    setup.sh("chmod -x r.sh").await;
    assert_ne!(setup.sh("./r.sh").await.exit_code, Some(0));
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
