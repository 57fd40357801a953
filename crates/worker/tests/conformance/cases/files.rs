//! The run's files: in before the program, out after it.

use super::Backend;
use bytes::Bytes;
use std::time::Duration;

pub(crate) async fn files_go_in_and_changes_come_out(backend: &Backend) {
    let case = backend.case();
    for (path, text) in [
        ("keep.txt", "keep"),
        ("dir/change.txt", "old"),
        ("gone.txt", "x"),
        ("same.txt", "same"),
    ] {
        case.write(path, text).await;
    }
    let command = "cat keep.txt; echo new > dir/change.txt; rm gone.txt; mkdir -p a/b empty; echo 1 > a/b/c.json; \
         : > nothing; cp same.txt t; mv t same.txt";
    let output = case.sh(command).await;
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
    assert_eq!(artifacts, ["a/b/c.json", "dir/change.txt", "nothing"]);
    let json = &output.artifacts[0];
    assert_eq!((json.file_size, json.mime_type.as_str()), (2, "application/json"));
    let key = &json.storage_key;
    assert!(
        key.starts_with("users/auth0%7Cconformance/runs/") && key.ends_with("/a/b/c.json"),
        "{key}"
    );
    let hash = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865";
    assert_eq!(json.content_hash, hash);
    let left = ["a/b/c.json", "dir/change.txt", "keep.txt", "nothing", "same.txt"];
    assert_eq!(case.names().await, left);
    assert_eq!(case.read("dir/change.txt").await, "new\n");
    assert_eq!(case.read("nothing").await, "");
}

pub(crate) async fn ten_thousand_small_files_come_out_and_go_in(backend: &Backend) {
    let case = backend.case();
    let make = "import os\nfor d in range(100):\n    os.mkdir(f'd{d}')\n    for f in range(100):\n        \
         open(f'd{d}/f{f}', 'w').write(f'{d} {f}')";
    let mut request = case.code("python", make);
    request.timeout = Duration::from_mins(4);
    let output = case.run(&request).await.unwrap();
    assert_eq!(
        (output.exit_code, output.artifacts.len()),
        (Some(0), 10_000),
        "{}",
        output.stderr
    );
    assert_eq!(case.list().await.len(), 10_000);
    let sum = "find . -type f | wc -l; cat d*/f* | wc -c; cat d37/f42; rm -r d0; echo changed > d1/f1";
    let output = case.sh(sum).await;
    let bytes: usize = (0..100)
        .flat_map(|d| (0..100).map(move |f| format!("{d} {f}").len()))
        .sum();
    assert_eq!(output.stdout, format!("10000\n{bytes}\n37 42"));
    assert_eq!(output.artifacts.len(), 1);
    assert_eq!(case.list().await.len(), 9_900);
    assert_eq!(case.read("d1/f1").await, "changed\n");
}

pub(crate) async fn what_is_too_large_fails_the_step_and_changes_nothing(backend: &Backend) {
    let case = backend.case();
    case.write("there", "before").await;
    for command in [
        "echo x > fine; rm there; head -c 9000000 /dev/zero > large",
        "echo x > fine; for i in $(seq 9); do head -c 8000000 /dev/zero > part$i; done",
    ] {
        let ended = case.run(&case.shell(command)).await;
        assert!(
            matches!(&ended, Ok(output) if output.unkept.as_deref() == Some("Workspace limit exceeded")),
            "{command}: {ended:?}"
        );
        assert_eq!(case.names().await, ["there"]);
    }
    assert_eq!(case.read("there").await, "before");
}

pub(crate) async fn runs_do_not_see_each_other(backend: &Backend) {
    let (one, other) = (backend.case(), backend.case());
    one.write("secret", "x").await;
    assert_eq!(other.text("ls -A").await, "");
    other.sh("echo mine > secret").await;
    assert_eq!(one.read("secret").await, "x");
}

pub(crate) async fn a_file_and_a_directory_may_change_places(backend: &Backend) {
    let case = backend.case();
    case.write("file", "1").await;
    case.write("dir/inner", "2").await;
    case.text("rm -r file dir; mkdir file; echo 3 > file/inner; echo 4 > dir")
        .await;
    assert_eq!(case.names().await, ["dir", "file/inner"]);
    assert_eq!(case.text("cat dir file/inner").await, "4\n3\n");
}

pub(crate) async fn everything_can_be_deleted(backend: &Backend) {
    let case = backend.case();
    for number in 0..20 {
        case.files
            .write(&format!("d{number}/f"), Bytes::from_static(b"x"))
            .await
            .unwrap();
    }
    let output = case.sh("rm -rf ./*").await;
    assert_eq!(output.exit_code, Some(0), "{}", output.stderr);
    assert!(output.artifacts.is_empty());
    assert!(case.names().await.is_empty());
}

pub(crate) async fn steps_of_one_run_see_what_the_one_before_left(backend: &Backend) {
    let case = backend.case();
    case.text("mkdir bin && printf '#!/bin/sh\\necho ran' > bin/tool && chmod +x bin/tool && printf b > b")
        .await;
    assert_eq!(case.text("cat b; sh bin/tool; echo c > c").await, "bran\n");
    assert_eq!(case.text("ls").await, "b\nbin\nc\n");
}
