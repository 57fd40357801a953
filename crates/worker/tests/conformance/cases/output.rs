//! What a program prints.

use super::{Backend, Heard};
use agent::ports::{OutputStream, Sandbox, SandboxError};
use std::time::Duration;
use testkit::eventually;
use tokio_util::sync::CancellationToken;

const KEPT: usize = 1024 * 1024;

pub(crate) async fn both_streams_come_back_apart(backend: &Backend) {
    let case = backend.case();
    let output = case
        .sh("echo out; echo err >&2; echo out again; printf 'no end' >&2")
        .await;
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\nout again\n", "err\nno end")
    );
    assert!(
        !output.truncated && !output.ephemeral_workspace && output.warnings.is_empty(),
        "{output:?}"
    );
    // Opened again by name, as many scripts do.
    let output = case
        .sh("echo one > /dev/stdout; echo two > /dev/stderr; echo three | tee /dev/stderr")
        .await;
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("one\nthree\n", "two\nthree\n"),
        "{output:?}"
    );
}

pub(crate) async fn a_hundred_megabytes_on_each_stream_are_read_to_the_end_and_cut_at_a_mebibyte(
    backend: &Backend,
) {
    let case = backend.case();
    let bytes = 100_000_000;
    let mut request = case.shell(&format!(
        "(head -c {bytes} /dev/zero | tr '\\0' e >&2) & head -c {bytes} /dev/zero | tr '\\0' o && wait && echo end > done"
    ));
    request.timeout = Duration::from_mins(4);
    let heard = Heard::default();
    let output = backend
        .sandbox
        .run(&request, &heard, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(
        (output.exit_code, output.truncated),
        (Some(0), true),
        "{:?}",
        output.ended_by
    );
    assert_eq!((output.stdout.len(), output.stderr.len()), (KEPT, KEPT));
    assert!(output.stdout.bytes().all(|byte| byte == b'o') && output.stderr.bytes().all(|byte| byte == b'e'));
    assert_eq!(case.read("done").await, "end\n");
    for stream in [OutputStream::Stdout, OutputStream::Stderr] {
        // Display may leave out something in the middle, and says so; it does not lose count.
        let mut next = 0;
        for piece in heard.pieces(stream) {
            assert!(
                piece.offset == next || (piece.gap && piece.offset > next),
                "{} after {next}",
                piece.offset
            );
            next = piece.offset + piece.text.len() as u64;
        }
        assert!(next <= bytes, "{next}");
    }
}

pub(crate) async fn what_is_not_text_becomes_text_that_any_store_takes(backend: &Backend) {
    let case = backend.case();
    let output = case
        .sh(r"printf 'a\000b\377c\303\274\303' ; head -c 3000000 /dev/urandom >&2")
        .await;
    assert_eq!(output.stdout, "a\u{fffd}b\u{fffd}cü\u{fffd}");
    assert!(output.truncated && output.stderr.len() <= KEPT);
    assert!(!output.stderr.contains('\0'));
}

pub(crate) async fn pieces_are_told_in_order_and_without_loss(backend: &Backend) {
    let case = backend.case();
    let request = case.shell("for i in $(seq 300); do echo \"line $i of äöü\"; echo \"e $i\" >&2; done");
    let heard = Heard::default();
    let output = backend
        .sandbox
        .run(&request, &heard, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(output.exit_code, Some(0), "{output:?}");
    for (stream, all) in [
        (OutputStream::Stdout, &output.stdout),
        (OutputStream::Stderr, &output.stderr),
    ] {
        assert_eq!(&heard.text(stream), all);
        let mut next = 0;
        for piece in heard.pieces(stream) {
            assert_eq!((piece.offset, piece.gap), (next, false));
            next += piece.text.len() as u64;
        }
    }
}

pub(crate) async fn pieces_are_told_while_the_program_runs(backend: &Backend) {
    let case = backend.case();
    let request = case.shell("echo first; sleep 300; echo last");
    let (heard, cancel) = (Heard::default(), CancellationToken::new());
    let stop = async {
        eventually(Duration::from_mins(1), || async {
            heard.text(OutputStream::Stdout).contains("first")
        })
        .await;
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(backend.sandbox.run(&request, &heard, &cancel), stop);
    assert!(matches!(ended, Err(SandboxError::Cancelled)), "{ended:?}");
    assert_eq!(heard.text(OutputStream::Stdout), "first\n");
}
