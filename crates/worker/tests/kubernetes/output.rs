//! Output is complete whatever happens to the log, and its live pieces are in order.

use crate::setup::{Bed, Heard, LIMIT, says, shell};
use agent::ports::OutputStream;
use sha2::{Digest, Sha256};
use std::time::Duration;
use testkit::eventually;
use testkit::kube::{Fault, On};

/// Lines of 47 MB, and what they are.
const LINES: u64 = 6_000_000;

fn expected() -> Vec<u8> {
    use std::io::Write as _;
    let mut text = Vec::with_capacity(50_000_000);
    for line in 1..=LINES {
        writeln!(text, "{line}").unwrap();
    }
    text
}

/// Offsets rise, nothing comes twice, and what is left out is said; gives the bytes that were shown.
fn shown(heard: &Heard, stream: OutputStream) -> u64 {
    let mut pieces = heard.pieces(stream);
    let (mut next, mut bytes, mut late) = (0, 0, Vec::new());
    for piece in &pieces {
        if piece.offset < next {
            // What the log lost, filled in at the end.
            late.push((piece.offset, piece.text.len() as u64));
            continue;
        }
        assert!(
            piece.offset == next || piece.gap,
            "{} after {next} without a word",
            piece.offset
        );
        next = piece.offset + piece.text.len() as u64;
    }
    pieces.sort_by_key(|piece| piece.offset);
    let mut end = 0;
    for piece in &pieces {
        assert!(
            piece.offset >= end,
            "bytes {}..{end} come twice; {late:?}",
            piece.offset
        );
        end = piece.offset + piece.text.len() as u64;
        bytes += piece.text.len() as u64;
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_seven_megabytes_are_whole_although_the_log_is_cut_every_300_ms() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    bed.api.inject(
        Fault::LogCut(Duration::from_millis(300)),
        On::new("get", "pods/log"),
    );
    let call = worker.begin(&shell(&format!("seq {LINES}")));
    let (heard, request) = (call.heard.clone(), call.request.clone());
    let output = call.end().await.unwrap();
    assert_eq!(
        (output.exit_code, output.truncated),
        (Some(0), true),
        "{:?}",
        output.ended_by
    );
    let whole = expected();
    assert!(whole.starts_with(output.stdout.as_bytes()));
    let prefix = format!(
        "users/auth0%7Cone/runs/{}/.agent/steps/{}/",
        request.run_id, request.step_id
    );
    let client = bed.s3.client();
    let listed = client
        .list_objects_v2()
        .bucket(bed.s3.bucket())
        .prefix(&prefix)
        .send()
        .await;
    let listed = listed.unwrap();
    let mut keys = listed.contents().iter().filter_map(|object| object.key());
    let key = keys
        .find(|key| key.ends_with("/stdout"))
        .expect("the whole output");
    let object = client
        .get_object()
        .bucket(bed.s3.bucket())
        .key(key)
        .send()
        .await
        .unwrap();
    let stored = object.body.collect().await.unwrap().into_bytes();
    assert_eq!(stored.len(), whole.len());
    assert_eq!(Sha256::digest(&stored), Sha256::digest(&whole));
    // All of it was shown, each byte once: what the log lost came from the store.
    assert_eq!(shown(&heard, OutputStream::Stdout), whole.len() as u64);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_the_log_lost_is_filled_from_the_store() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    bed.api
        .inject(Fault::LogLoseTail(3_000), On::new("get", "pods/log"));
    let call = worker.begin(&shell("seq 5000; sleep 0.5; seq 5000 >&2"));
    let heard = call.heard.clone();
    let output = call.end().await.unwrap();
    let lines: String = (1..=5_000).map(|line| format!("{line}\n")).collect();
    assert_eq!(output.stdout, lines);
    for stream in [OutputStream::Stdout, OutputStream::Stderr] {
        assert_eq!(shown(&heard, stream), lines.len() as u64, "{stream:?}");
    }
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_while_the_tool_runs_and_an_empty_log_harms_nothing() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    bed.api
        .inject(Fault::LogEmpty, On::new("get", "pods/log").times(5));
    let call = worker.begin(&shell(
        "echo first; while ! [ -e /tmp/never ]; do sleep 0.1; done",
    ));
    let heard = call.heard.clone();
    eventually(LIMIT, || {
        std::future::ready(heard.text(OutputStream::Stdout) == "first\n")
    })
    .await;
    assert!(!call.is_over());
    let asked = bed.api.requests()[&("get".to_owned(), "pods/log".to_owned())];
    assert!(asked < 60, "{asked} requests for a log that was empty five times");
    call.cancel.cancel();
    assert!(call.end().await.is_err());
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_rotated_under_the_reader_shows_no_line_twice() {
    let bed = Bed::with(|options| options.log_file_bytes = 20_000).await;
    let worker = bed.worker(&[]).await;
    bed.api.inject(
        Fault::LogCut(Duration::from_millis(250)),
        On::new("get", "pods/log").times(4),
    );
    let call = worker.begin(&shell("for n in $(seq 12); do seq 1000; sleep 0.1; done"));
    let heard = call.heard.clone();
    let lines: String = (1..=1_000).map(|line| format!("{line}\n")).collect();
    says(call.end().await, &lines.repeat(12));
    assert_eq!(shown(&heard, OutputStream::Stdout), lines.len() as u64 * 12);
}
