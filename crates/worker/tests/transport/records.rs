use crate::rounds::pod;
use crate::setup::{MIB, SECRET, SPEC, start};
use toolbox::live::Channel;
use toolbox::wire::{Ending, FailureClass};

#[tokio::test]
async fn the_newest_record_of_this_very_call_is_found() {
    let setup = start().await;
    let request = setup.step(1);
    let none = setup.transport.record(&request, SPEC).await.unwrap();
    assert_eq!(none, None);
    let first = pod(&setup, &request, "uid-1").await;
    let one = first.record(Ending::TimedOut);
    first.store(&one).await;
    // Another question, another Job's words, another version, no record at all.
    let mut other = one.clone();
    other.spec_hash = "b".repeat(64);
    pod(&setup, &request, "uid-2").await.store(&other).await;
    pod(&setup, &request, "uid-3").await.store(&one).await;
    let mut later = one.clone();
    (later.version, later.job_uid) = (2, "uid-4".to_owned());
    pod(&setup, &request, "uid-4").await.store(&later).await;
    setup
        .put(
            &format!(".agent/steps/{}/uid-5/result.json", request.step_id),
            b"{\"version\":1}",
        )
        .await;
    setup
        .put(&format!(".agent/steps/{}/result.json", request.step_id), b"")
        .await;
    assert_eq!(
        setup.transport.record(&request, SPEC).await.unwrap(),
        Some(one.clone())
    );
    let second = pod(&setup, &request, "uid-6").await;
    let two = second.record(Ending::Exited { code: 0 });
    // Times of objects are whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    second.store(&two).await;
    assert_eq!(setup.transport.record(&request, SPEC).await.unwrap(), Some(two));
    assert_eq!(setup.transport.record(&setup.step(2), SPEC).await.unwrap(), None);
}

#[tokio::test]
async fn the_head_of_an_output_is_cut_between_characters_and_shows_no_secret() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let mut record = played.record(Ending::Exited { code: 0 });
    let mut long = vec![b'x'; MIB as usize - 5];
    long.extend_from_slice(SECRET.as_bytes());
    long.resize(long.len() + 200_000, b'y');
    let cases: [(Vec<u8>, usize, bool); 5] = [
        (b"short\n".to_vec(), 6, false),
        (vec![b'x'; MIB as usize], MIB as usize, false),
        (vec![b'x'; MIB as usize + 1], MIB as usize, true),
        (
            ["x".repeat(MIB as usize - 1), "ü".to_owned()]
                .concat()
                .into_bytes(),
            MIB as usize - 1,
            true,
        ),
        (long, MIB as usize, true),
    ];
    for (printed, kept, truncated) in cases {
        played.prints(&mut record, &printed).await;
        let output = setup.transport.collect(&request, &record).await.unwrap();
        assert_eq!((output.stdout.len(), output.truncated), (kept, truncated));
        assert!(!output.stdout.contains("s3cr"));
    }
    played
        .prints(&mut record, format!("<{SECRET}>\0\n").as_bytes())
        .await;
    let output = setup.transport.collect(&request, &record).await.unwrap();
    assert_eq!(output.stdout, "<[REDACTED]>\u{FFFD}\n");
}

#[tokio::test]
async fn parts_of_an_output_can_be_read() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let mut record = played.record(Ending::Exited { code: 0 });
    played.prints(&mut record, b"0123456789").await;
    let part = |channel, range| setup.transport.output(&request, "uid-1", channel, range);
    assert_eq!(part(Channel::Stdout, 2..5).await.unwrap(), "234");
    assert_eq!(part(Channel::Stdout, 8..50).await.unwrap(), "89");
    for range in [50..60, 5..5] {
        assert_eq!(part(Channel::Stdout, range).await.unwrap(), "");
    }
    assert_eq!(
        part(Channel::Stderr, 0..5).await.unwrap(),
        "",
        "nothing was printed"
    );
}

#[tokio::test]
async fn a_failure_of_the_supervisor_is_an_error_and_applies_nothing() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let mut record = played
        .run(|dir| std::fs::write(dir.join("new"), "new").unwrap())
        .await;
    record.ending = Ending::Failed {
        class: FailureClass::Workspace,
        message: "Workspace limit exceeded".to_owned(),
    };
    let error = setup.transport.collect(&request, &record).await.unwrap_err();
    assert_eq!(error.to_string(), "Workspace limit exceeded");
    assert!(setup.all().await.is_empty());
}

#[tokio::test]
async fn a_tool_whose_files_are_not_kept_has_run_and_its_output_stays() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let mut record = played
        .run(|dir| {
            std::fs::write(dir.join("fine"), "x").unwrap();
            std::fs::write(dir.join("a\\b"), "x").unwrap();
        })
        .await;
    played.prints(&mut record, b"done\n").await;
    let output = setup.transport.collect(&request, &record).await.unwrap();
    assert_eq!(output.unkept.as_deref(), Some("Invalid path: a\\b"));
    assert_eq!((output.stdout.as_str(), output.exit_code), ("done\n", Some(0)));
    assert_eq!(setup.all().await.len(), 1);
    // Ended for what it wrote: nothing is kept.
    record.delta = None;
    record.unkept = Some("Workspace limit exceeded".to_owned());
    record.ending = Ending::Failed {
        class: FailureClass::Workspace,
        message: "Workspace limit exceeded".to_owned(),
    };
    let output = setup.transport.collect(&request, &record).await.unwrap();
    assert_eq!(output.unkept.as_deref(), Some("Workspace limit exceeded"));
    assert_eq!((output.stdout.as_str(), output.exit_code), ("done\n", None));
}
