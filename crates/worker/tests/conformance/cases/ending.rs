//! Nothing of a program is left.

use super::{Backend, Heard, processes_with};
use agent::ports::{OutputStream, Sandbox, SandboxError};
use futures::future::join_all;
use std::time::{Duration, Instant};
use testkit::eventually;
use tokio_util::sync::CancellationToken;

/// A tree with all that makes one hard to end: TERM ignored, sessions and groups of their own, orphans, a zombie, a
/// stopped process. `mark` is in the command line of its sleeps.
fn stubborn(mark: u32) -> String {
    format!(
        "trap '' TERM HUP INT; (trap '' TERM; setsid sh -c \"trap '' TERM; sleep {mark}\" & sleep {mark}) & \
         (sh -c 'sleep {mark} & exec sleep 0' &) ; \
         python3 -c 'import os, time, sys; os.fork() or os._exit(0); os.fork() or (os.setsid(), os.execvp(\"sleep\", [\"sleep\", \"{mark}\"])); time.sleep(300)' & \
         sleep {mark} & kill -STOP $!; echo up; sleep {mark}"
    )
}

fn left(mark: u32) -> Vec<String> {
    processes_with(&format!("sleep {mark}"))
}

pub(crate) async fn a_tree_that_ignores_term_is_gone_after_the_time_limit(backend: &Backend) {
    let case = backend.case();
    let mut request = case.shell(&stubborn(98_762));
    request.timeout = Duration::from_secs(2);
    let output = case.run(&request).await.unwrap();
    assert!(output.timed_out, "{output:?}");
    assert_eq!(output.stdout, "up\n");
    assert!(
        !backend.traits.shares_machine || left(98_762).is_empty(),
        "{:?}",
        left(98_762)
    );
}

pub(crate) async fn background_processes_end_with_the_program(backend: &Backend) {
    let case = backend.case();
    let output = case
        .sh("setsid sleep 98763 & nohup sleep 98763 >/dev/null 2>&1 & (sleep 98763 &) ; echo left")
        .await;
    assert_eq!((output.stdout.as_str(), output.exit_code), ("left\n", Some(0)));
    assert!(
        !backend.traits.shares_machine || left(98_763).is_empty(),
        "{:?}",
        left(98_763)
    );
}

pub(crate) async fn cancelling_leaves_no_process_and_stores_nothing(backend: &Backend) {
    let case = backend.case();
    case.write("there", "before").await;
    let request = case.shell(&format!("echo x > half; rm there; {}", stubborn(98_764)));
    let (heard, cancel) = (Heard::default(), CancellationToken::new());
    let stop = async {
        eventually(Duration::from_mins(1), || async {
            heard.text(OutputStream::Stdout).contains("up")
        })
        .await;
        if backend.traits.shares_machine {
            assert!(left(98_764).len() >= 5, "{:?}", left(98_764));
        }
        cancel.cancel();
        let stopped = Instant::now();
        if backend.traits.shares_machine {
            eventually(backend.traits.stops_within, || async { left(98_764).is_empty() }).await;
        }
        stopped
    };
    let (ended, stopped) = tokio::join!(backend.sandbox.run(&request, &heard, &cancel), stop);
    assert!(matches!(ended, Err(SandboxError::Cancelled)), "{ended:?}");
    println!("cancelled: returned after {} ms", stopped.elapsed().as_millis());
    assert_eq!(case.names().await, ["there"]);
    assert_eq!(case.read("there").await, "before");
}

pub(crate) async fn cancelling_before_the_start_runs_nothing(backend: &Backend) {
    let case = backend.case();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let request = case.shell("echo ran > proof; sleep 98767");
    let ended = backend.sandbox.run(&request, &Heard::default(), &cancel).await;
    assert!(matches!(ended, Err(SandboxError::Cancelled)), "{ended:?}");
    assert!(
        !backend.traits.shares_machine || left(98_767).is_empty(),
        "{:?}",
        left(98_767)
    );
    assert!(case.names().await.is_empty());
}

pub(crate) async fn many_run_beside_each_other(backend: &Backend) {
    let cases: Vec<_> = (0..8).map(|_| backend.case()).collect();
    let runs = cases.iter().enumerate().map(|(number, case)| async move {
        let output = case
            .sh(&format!("echo {number} > own; sleep 0.3; cat own; ls | wc -l"))
            .await;
        (output.stdout, case.read("own").await)
    });
    for (number, (said, stored)) in join_all(runs).await.into_iter().enumerate() {
        assert_eq!((said, stored), (format!("{number}\n1\n"), format!("{number}\n")));
    }
}
