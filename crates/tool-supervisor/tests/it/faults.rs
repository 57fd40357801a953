use crate::bed::{Bed, MIB, file, pack, sha256, shell};
use crate::pod::Pod;
use std::time::Duration;
use toolbox::wire::{Ending, FailureClass, Manifest, Order, Record};

/// Goes on when the file `go` is there.
const WAITS: &str = "echo up; while [ ! -e go ]; do sleep 0.02; done; rm go; echo new > file; echo out";

async fn waiting(order: &Order) -> Pod {
    let mut pod = Pod::start(order);
    pod.says(" up").await;
    pod
}

fn go(pod: &Pod) {
    std::fs::write(pod.workspace().join("go"), "").unwrap();
}

#[tokio::test]
async fn a_store_that_is_away_for_three_seconds_costs_time_only() {
    let mut bed = Bed::start().await;
    let order = bed
        .order_of(shell(WAITS), &bed.manifest(&[("old", b"old")]).await)
        .await;
    let mut pod = waiting(&order).await;
    bed.s3.stop().await;
    go(&pod);
    pod.says("storing the results").await;
    // The outage itself.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!pod.has_ended());
    bed.s3.restart().await;
    assert_eq!(pod.end().await, 0, "{}", pod.log());
    let record = bed.record().await.unwrap();
    assert_eq!(record.ending, Ending::Exited { code: 0 });
    assert_eq!(
        bed.delta(&record).await.into_values().collect::<Vec<_>>(),
        [b"new\n"]
    );
    assert_eq!(bed.output("stdout").await, b"up\nout\n");
}

#[tokio::test]
async fn killed_while_fetching_nothing_is_there_and_it_can_be_done_again() {
    let mut bed = Bed::start().await;
    let order = bed.order("echo ran").await;
    bed.s3.stop().await;
    let mut pod = Pod::start(&order);
    pod.says("fetching the workspace").await;
    pod.kill().await;
    bed.s3.restart().await;
    assert!(bed.record().await.is_none() && bed.get("run/step/uid/started").await.is_none());
    assert_eq!(bed.carry_out(&order).await.ending, Ending::Exited { code: 0 });
}

#[tokio::test]
async fn killed_while_running_there_is_no_record_and_no_second_run() {
    let bed = Bed::start().await;
    let order = bed.order(WAITS).await;
    waiting(&order).await.kill().await;
    assert!(bed.record().await.is_none());
    assert_eq!(Pod::start(&order).end().await, 73);
    assert!(bed.record().await.is_none());
}

#[tokio::test]
async fn killed_while_storing_there_is_no_record_and_no_second_run() {
    let mut bed = Bed::start().await;
    let order = bed.order(WAITS).await;
    let mut pod = waiting(&order).await;
    bed.s3.stop().await;
    go(&pod);
    pod.says("storing the results").await;
    pod.kill().await;
    bed.s3.restart().await;
    assert!(bed.record().await.is_none());
    assert_eq!(Pod::start(&order).end().await, 73);
}

#[tokio::test]
async fn an_answer_to_the_start_mark_that_is_lost_is_not_taken_for_another_start() {
    let bed = Bed::start().await;
    let mut order = bed.order("echo ran").await;
    let proxy = testkit::FaultProxy::start(bed.s3.port()).await;
    order.put.started = bed.mark_url_through(proxy.port()).await;
    proxy.drop_next_reply();
    let record = bed.carry_out(&order).await;
    assert!(proxy.reply_dropping_is_used());
    assert_eq!(record.ending, Ending::Exited { code: 0 });
}

#[tokio::test]
async fn a_record_that_cannot_be_stored_is_told_by_the_exit_code() {
    let bed = Bed::start().await;
    let mut order = bed.order("echo ran").await;
    order.put.record.push('0');
    let mut pod = Pod::start(&order);
    assert_eq!(pod.end().await, 74);
    assert!(pod.log().contains("cannot store the record: the store refused"));
    assert!(!pod.log().contains("X-Amz"), "{}", pod.log());
}

#[tokio::test]
async fn files_that_cannot_be_stored_are_a_failure_and_the_output_is_kept() {
    let bed = Bed::start().await;
    let mut order = bed.order("echo ran; echo x > file").await;
    order.put.delta.push('0');
    let record = bed.carry_out(&order).await;
    let Ending::Failed { class, message } = &record.ending else {
        panic!("{:?}", record.ending);
    };
    assert_eq!(*class, FailureClass::Workspace);
    assert!(
        message.starts_with("cannot store the files: the store refused"),
        "{message}"
    );
    assert!(record.delta.is_none());
    assert_eq!(bed.output("stdout").await, b"ran\n");
}

fn refusal(record: &Record) -> String {
    match &record.ending {
        Ending::Failed {
            class: FailureClass::Workspace,
            message,
        } => message.clone(),
        other => panic!("{other:?}"),
    }
}

type Change = fn(&mut Manifest);

fn rename(manifest: &mut Manifest, to: &str) {
    let (_, file) = manifest.files.pop_first().unwrap();
    manifest.files.insert(to.to_owned(), file);
}

fn first(manifest: &mut Manifest) -> &mut toolbox::wire::File {
    manifest.files.values_mut().next().unwrap()
}

#[tokio::test]
async fn a_manifest_that_no_worker_writes_is_refused_and_nothing_is_run() {
    let bed = Bed::start().await;
    let cases: [(&str, Change); 14] = [
        ("Invalid path: ../file", |manifest| rename(manifest, "../file")),
        ("Invalid path: /tmp/file", |manifest| {
            rename(manifest, "/tmp/file");
        }),
        ("Invalid path: a//b", |manifest| rename(manifest, "a//b")),
        ("Invalid path: .agent/x", |manifest| rename(manifest, ".agent/x")),
        ("Invalid path: other/file", |manifest| {
            rename(manifest, "other/file");
        }),
        ("the manifest is not what it should be: hash", |manifest| {
            first(manifest).sha256 = "../../etc/passwd".to_owned();
        }),
        ("the manifest is not what it should be: hash", |manifest| {
            first(manifest).mode = 0o4755;
        }),
        ("Workspace limit exceeded", |manifest| {
            first(manifest).bytes = 26 * MIB;
        }),
        ("cannot fetch the workspace: the archive", |manifest| {
            first(manifest).bytes += 1;
        }),
        ("no pack holds the content of file", |manifest| {
            first(manifest).sha256 = sha256(b"something else");
        }),
        ("the manifest is of version 2", |manifest| manifest.version = 2),
        ("cannot fetch the workspace: the archive", |manifest| {
            manifest.packs[0].sha256 = sha256(b"other");
        }),
        ("cannot fetch the workspace: the archive", |manifest| {
            manifest.packs[0].unpacked_bytes -= 1;
        }),
        ("cannot fetch the workspace: the archive", |manifest| {
            manifest.packs[0].bytes -= 1;
        }),
    ];
    for (number, (told, change)) in cases.into_iter().enumerate() {
        let mut manifest = bed.manifest(&[("file", b"content"), ("other", b"more")]).await;
        change(&mut manifest);
        let mut order = bed.order_of(shell("echo ran > ran"), &manifest).await;
        // A mark of its own for each.
        let of = format!("run/step/uid/started-{number}");
        order.mark_url = bed.get_url(&of).await;
        order.put.started = bed.mark_url(&of).await;
        let record = bed.carry_out(&order).await;
        let message = refusal(&record);
        assert!(message.starts_with(told), "{number} {told}: {message}");
        assert!(record.delta.is_none() && record.stdout.bytes == 0);
    }
}

#[tokio::test]
async fn a_pack_with_wrong_content_is_refused() {
    let bed = Bed::start().await;
    let mut manifest = bed.manifest(&[]).await;
    let (mut archive, packed) = pack([b"content".as_slice()]);
    let last = archive.len() - 1;
    archive[last] ^= 1;
    manifest.packs.push(bed.put_pack(archive, packed).await);
    manifest.files.insert("file".to_owned(), file(b"content"));
    let record = bed
        .carry_out(&bed.order_of(shell("echo ran"), &manifest).await)
        .await;
    assert!(
        refusal(&record).starts_with("cannot fetch the workspace"),
        "{}",
        refusal(&record)
    );
    assert!(record.stdout.bytes == 0);
}

#[tokio::test]
async fn a_workspace_that_grows_without_end_is_stopped() {
    let bed = Bed::start().await;
    let mut order = bed
        .order("for i in $(seq 300); do head -c 1M /dev/zero > $i; done; echo full; sleep 600")
        .await;
    order.limits.total_bytes = MIB;
    order.limits.file_bytes = MIB;
    let record = bed.carry_out(&order).await;
    assert_eq!(refusal(&record), "Workspace limit exceeded");
    assert!(record.delta.is_none());
    assert!(record.durations.run_ms < 60_000);
}
