use crate::bed::{Bed, MIB, file, sha256, shell};
use crate::pod::Pod;
use std::collections::BTreeMap;
use toolbox::wire::{Ending, Record};

fn delta(record: &Record) -> &toolbox::wire::Delta {
    assert_eq!(record.ending, Ending::Exited { code: 0 });
    record.delta.as_ref().unwrap()
}

fn names<'a>(files: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    files.into_iter().map(String::as_str).collect()
}

#[tokio::test]
async fn what_was_added_changed_and_deleted_comes_back_and_nothing_else() {
    let bed = Bed::start().await;
    let files: &[(&str, &[u8])] = &[
        ("same", b"same"),
        ("touched", b"touched"),
        ("changed", b"before"),
        ("same size", b"aaaa"),
        ("dir/moved", b"moved"),
        ("gone", b"gone"),
    ];
    let command = "touch touched; echo after > changed; printf bbbb > 'same size'; mkdir new empty; \
                   mv dir/moved new/moved; rm gone; printf %s '#!/bin/sh' > run; chmod 755 run; \
                   ln -s /etc/passwd link; ln run hard; mkfifo pipe; mkdir .agent; echo x > .agent/hidden";
    let record = bed.run(command, files).await;
    let delta = delta(&record);
    assert_eq!(names(delta.added.keys()), ["hard", "new/moved", "run"]);
    assert_eq!(names(delta.changed.keys()), ["changed", "same size"]);
    assert_eq!(names(&delta.deleted), ["dir/moved", "gone"]);
    assert_eq!(
        (delta.added["run"].mode, delta.added["new/moved"].mode),
        (0o700, 0o600)
    );
    let contents = bed.delta(&record).await;
    let of = |content: &[u8]| (sha256(content), content.to_vec());
    let expected = [of(b"after\n"), of(b"bbbb"), of(b"moved"), of(b"#!/bin/sh")];
    assert_eq!(contents, BTreeMap::from(expected));
}

#[tokio::test]
async fn only_a_mode_that_changes_is_a_change() {
    let bed = Bed::start().await;
    let record = bed
        .run("chmod 644 a; chmod 755 b", &[("a", b"1"), ("b", b"2")])
        .await;
    assert_eq!(names(delta(&record).changed.keys()), ["b"]);
    assert_eq!(delta(&record).changed["b"].mode, 0o700);
}

#[tokio::test]
async fn files_in_directories_that_the_tool_closed_are_stored() {
    let bed = Bed::start().await;
    let command = "mkdir -p a/b; echo deep > a/b/file; chmod 000 a/b/file; chmod 000 a/b; chmod 111 a";
    let record = bed.run(command, &[]).await;
    assert_eq!(names(delta(&record).added.keys()), ["a/b/file"]);
    assert_eq!(
        bed.delta(&record).await.into_values().collect::<Vec<_>>(),
        [b"deep\n"]
    );
}

#[tokio::test]
async fn the_tool_sees_every_file_with_its_content_and_mode() {
    let bed = Bed::start().await;
    let mut manifest = bed
        .manifest(&[
            ("a/b c/ü", b"one"),
            ("twice", b"one"),
            ("empty", b""),
            ("run", b"#!/bin/sh\necho ran\n"),
        ])
        .await;
    manifest.files.get_mut("run").unwrap().mode = 0o700;
    let command = "find . -type f | sort; cat 'a/b c/ü' twice empty; echo; ./run";
    let record = bed
        .carry_out(&bed.order_of(shell(command), &manifest).await)
        .await;
    assert!(delta(&record).added.is_empty());
    let out = String::from_utf8(bed.output("stdout").await).unwrap();
    assert_eq!(out, "./a/b c/ü\n./empty\n./run\n./twice\noneone\nran\n");
}

#[tokio::test]
async fn a_pack_may_hold_more_than_is_wanted_and_files_may_come_from_several() {
    let bed = Bed::start().await;
    let mut manifest = bed.manifest(&[("a", b"1"), ("dead", b"dead")]).await;
    manifest.files.remove("dead");
    let more = bed.manifest(&[("b", b"2"), ("again", b"1")]).await;
    manifest.packs.extend(more.packs);
    manifest.files.extend(more.files);
    let record = bed
        .carry_out(&bed.order_of(shell("cat a b again; ls"), &manifest).await)
        .await;
    assert_eq!(record.ending, Ending::Exited { code: 0 });
    assert_eq!(bed.output("stdout").await, b"121a\nagain\nb\n");
}

#[tokio::test]
async fn ten_thousand_files_go_in_and_out() {
    let bed = Bed::start().await;
    let contents: Vec<(String, Vec<u8>)> = (0..10_000)
        .map(|number| {
            (
                format!("dir{}/file{number}", number % 100),
                format!("content {number}\n").into_bytes(),
            )
        })
        .collect();
    let files: Vec<(&str, &[u8])> = contents
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_slice()))
        .collect();
    let command = "find . -type f | wc -l; for dir in *; do sed -i s/content/changed/ $dir/*; done";
    let record = bed.run(command, &files).await;
    assert_eq!(bed.output("stdout").await, b"10000\n");
    assert_eq!(delta(&record).changed.len(), 10_000);
    assert_eq!(delta(&record).changed["dir7/file7"], file(b"changed 7\n"));
    assert_eq!(bed.delta(&record).await.len(), 10_000);
    println!("durations of 10,000 small files: {:?}", record.durations);
}

#[tokio::test]
async fn an_archive_too_large_for_memory_is_streamed() {
    let bed = Bed::start().await;
    let command = "for i in 1 2 3; do head -c 6000000 /dev/urandom > $i; sha256sum < $i | head -c 64; done";
    let record = bed.run(command, &[]).await;
    let digests = String::from_utf8(bed.output("stdout").await).unwrap();
    let added = &delta(&record).added;
    assert_eq!(
        added
            .values()
            .map(|file| file.sha256.as_str())
            .collect::<String>(),
        digests
    );
    assert!(
        bed.delta(&record)
            .await
            .values()
            .all(|content| content.len() == 6_000_000)
    );
}

#[tokio::test]
async fn what_may_not_be_kept_is_told_in_the_words_of_file_tools_beside_the_end_of_the_tool() {
    let bed = Bed::start().await;
    let cases = [
        ("head -c 2000000 /dev/zero > large", "Workspace limit exceeded"),
        (
            "for i in 1 2 3 4 5; do head -c 1000000 /dev/zero > $i; done",
            "Workspace limit exceeded",
        ),
        (
            "for i in 1 2 3 4 5 6 7; do echo > $i; done",
            "Workspace limit exceeded",
        ),
        ("echo > fine; echo > 'a\\b'", "Invalid path: a\\b"),
        (
            "mkdir -p sub/.agent; echo > sub/.agent/x; echo > fine",
            "Invalid path: sub/.agent/x",
        ),
        (
            "touch fine $(printf 'a\\nb' | tr '\\n' '\\001')",
            "Invalid path: a\u{1}b",
        ),
    ];
    for (number, (command, told)) in cases.into_iter().enumerate() {
        let mut order = bed.order(&format!("{command}; echo done")).await;
        (
            order.limits.file_bytes,
            order.limits.total_bytes,
            order.limits.files,
        ) = (MIB, 4 * MIB, 6);
        // The kernel's own limit of a file is the one of all files.
        let of = format!("run/step/uid/started-{number}");
        order.mark_url = bed.get_url(&of).await;
        order.put.started = bed.mark_url(&of).await;
        let record = bed.carry_out(&order).await;
        assert_eq!(record.ending, Ending::Exited { code: 0 }, "{command}");
        assert_eq!(record.unkept.as_deref(), Some(told), "{command}");
        // A name that cannot be kept does not keep the others from being so.
        let kept = record
            .delta
            .map(|delta| delta.added.into_keys().collect::<Vec<_>>());
        let all = told.starts_with("Invalid path").then(|| vec!["fine".to_owned()]);
        assert_eq!(kept, all, "{command}");
        assert_eq!(bed.output("stdout").await, b"done\n");
    }
}

#[tokio::test]
async fn the_supervisor_leaves_nothing_of_its_own_in_the_tools_directories() {
    let bed = Bed::start().await;
    let mut pod = Pod::start(&bed.order("ls -A /workspace /tmp").await);
    assert_eq!(pod.end().await, 0);
    assert_eq!(bed.output("stdout").await, b"/tmp:\n\n/workspace:\n");
    assert!(std::fs::read_dir(pod.tmp()).unwrap().next().is_none());
}
