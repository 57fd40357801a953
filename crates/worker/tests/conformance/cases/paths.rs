//! Names and links.

use super::Backend;
use agent::ports::{SandboxError, WorkspaceError};

pub(crate) async fn names_of_any_script_and_with_odd_characters_survive(backend: &Backend) {
    let case = backend.case();
    let names = [
        "-dash",
        " leading space",
        "a b",
        "a%2Fb",
        "a+b",
        "a#b?c&d=e",
        "quote'\"",
        "ünïcödé/naïve.txt",
        "日本語/ファイル",
        "emoji-🦀",
        "..hidden",
        "...",
        "semi;colon",
        "star*",
        "x=y",
    ];
    for name in names {
        case.write(name, name).await;
    }
    // Each is seen as it is, and each comes back changed.
    let source = "import os\nfor root, _, files in os.walk('.'):\n    for name in files:\n        \
         path = os.path.join(root, name)\n        text = open(path).read()\n        \
         assert os.path.normpath(path) == text, (path, text)\n        open(path, 'w').write(text + '!')\n\
         os.makedirs('neu/äö'); open('neu/äö/ß', 'w').write('neu')\nprint('fine')";
    let output = case.python(source).await;
    assert_eq!(output.stdout, "fine\n", "{}", output.stderr);
    for name in names {
        assert_eq!(case.read(name).await, format!("{name}!"));
    }
    assert_eq!(case.read("neu/äö/ß").await, "neu");
    assert_eq!(case.names().await.len(), names.len() + 1);
}

pub(crate) async fn names_that_no_path_may_have_fail_the_step(backend: &Backend) {
    let case = backend.case();
    let odd = r"echo x > fine; echo x > 'a\b'; echo done";
    let output = case.run(&case.shell(odd)).await.unwrap();
    assert_eq!(output.unkept.as_deref(), Some(r"Invalid path: a\b"));
    // The program ran: what it printed and its other files stay.
    assert_eq!((output.stdout.as_str(), output.exit_code), ("done\n", Some(0)));
    assert_eq!(case.names().await, ["fine"]);
    let tab = "echo x > \"a$(printf '\\t')b\"; echo x > \"f$(printf '\\377')\"";
    let output = case.run(&case.shell(tab)).await.unwrap();
    assert_eq!(output.unkept.as_deref(), Some("Invalid path: a\tb, f\u{fffd}"));
    let long = "d=$(printf 'x%.0s' $(seq 200)); mkdir -p $d/$d; echo x > $d/$d/$d; echo x > new";
    let output = case.run(&case.shell(long)).await.unwrap();
    assert!(output.unkept.is_some_and(|told| told.len() > 512));
    assert_eq!(case.names().await, ["fine", "new"]);
}

pub(crate) async fn a_program_stays_one_over_steps(backend: &Backend) {
    let case = backend.case();
    case.sh("printf '#!/bin/sh\\necho ran\\n' > r.sh; chmod +x r.sh")
        .await;
    assert_eq!(case.text("./r.sh").await, "ran\n");
}

pub(crate) async fn a_file_in_the_place_of_a_directory_fails_the_call_alone(backend: &Backend) {
    let case = backend.case();
    case.write("d/f.txt", "1").await;
    case.put("d", "2").await;
    let error = case.run(&case.shell("ls")).await.unwrap_err();
    assert!(matches!(
        error,
        SandboxError::Workspace(WorkspaceError::InvalidPath(_))
    ));
    let told = "Invalid path: d (it is a file, and d/f.txt is below it)";
    assert_eq!(error.to_string(), told);
}

pub(crate) async fn links_are_neither_followed_nor_stored(backend: &Backend) {
    let case = backend.case();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "top").unwrap();
    let target = outside.path().display();
    let command = format!(
        "ln -s {target}/secret a; ln -s {target} d; ln -s /etc/passwd p; ln -s ../../../../etc/shadow r; ln -s . loop; \
         mkfifo f; echo x > real; ln real hard; ln -s real inside; echo done"
    );
    assert_eq!(case.text(&command).await, "done\n");
    assert_eq!(case.names().await, ["hard", "real"]);
}

pub(crate) async fn a_file_that_became_a_link_is_gone_from_the_store(backend: &Backend) {
    let case = backend.case();
    case.write("doc", "mine").await;
    case.write("sub/file", "mine").await;
    case.text("rm -r doc sub; ln -s /etc/passwd doc; ln -s /etc sub")
        .await;
    assert!(case.names().await.is_empty());
}

pub(crate) async fn removed_permissions_hide_nothing(backend: &Backend) {
    let case = backend.case();
    case.text("mkdir d; echo x > d/f; chmod 0 d/f d").await;
    assert_eq!(case.names().await, ["d/f"]);
    assert_eq!(case.text("cat d/f").await, "x\n");
}

pub(crate) async fn our_own_directory_is_not_touched(backend: &Backend) {
    let case = backend.case();
    case.text("mkdir .agent; echo x > .agent/state; mkdir sub; mkdir sub/.agent; echo y > seen")
        .await;
    assert_eq!(case.names().await, ["seen"]);
}

pub(crate) async fn the_working_directory_is_the_asked_one(backend: &Backend) {
    let case = backend.case();
    case.write("sub dir/file", "x").await;
    let mut request = case.shell("pwd; cat file; echo y > made");
    request.working_dir = "/workspace/sub dir".to_owned();
    assert_eq!(case.run(&request).await.unwrap().stdout, "/workspace/sub dir\nx");
    assert_eq!(case.names().await, ["sub dir/file", "sub dir/made"]);
    request.working_dir = "/workspace/missing".to_owned();
    let error = case.run(&request).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Invalid input: working_dir /workspace/missing does not exist"
    );
}
