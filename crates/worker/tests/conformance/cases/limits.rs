//! What a program may use.

use super::Backend;
use std::time::Duration;

pub(crate) async fn the_time_limit_keeps_output_and_files(backend: &Backend) {
    let case = backend.case();
    let mut request = case.shell("echo early; echo why >&2; echo x > kept.txt; sleep 98761");
    request.timeout = Duration::from_secs(1);
    let output = case.run(&request).await.unwrap();
    assert_eq!((output.exit_code, output.timed_out), (None, true), "{output:?}");
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("early\n", "why\n")
    );
    assert_eq!(case.read("kept.txt").await, "x\n");
    assert_eq!(output.artifacts.len(), 1);
}

pub(crate) async fn a_program_may_tidy_up_at_the_time_limit(backend: &Backend) {
    let case = backend.case();
    let mut request = case.shell("trap 'echo tidy; exit 0' TERM; while :; do sleep 0.05; done");
    request.timeout = Duration::from_secs(1);
    let output = case.run(&request).await.unwrap();
    assert!(output.timed_out && output.exit_code.is_none(), "{output:?}");
    assert_eq!(output.stdout, "tidy\n");
}

pub(crate) async fn a_fork_bomb_is_contained(backend: &Backend) {
    let case = backend.case();
    // Bounded by itself too: at most 400 processes, each for at most 5 s.
    let source = "import os, time\nmade = 0\nfor i in range(400):\n    try:\n        pid = os.fork()\n    \
         except OSError:\n        break\n    \
         if pid == 0:\n        time.sleep(5); os._exit(0)\n    made += 1\nprint(made)";
    let output = case.python(source).await;
    let made: u32 = output
        .stdout
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{output:?}"));
    assert!(made > 32, "{made} processes are too few to work with");
    assert!(
        !backend.traits.limits_processes || made <= 128,
        "{made} processes"
    );
    if backend.traits.limits_processes {
        let mut bomb = case.shell("b() { b | b & }; b; sleep 1; echo alive");
        bomb.timeout = Duration::from_secs(3);
        case.run(&bomb).await.unwrap();
    }
    // The machine still makes processes, and so does the next sandbox.
    assert_eq!(case.text("echo next").await, "next\n");
}

pub(crate) async fn one_process_cannot_take_more_memory_than_allowed(backend: &Backend) {
    if !backend.traits.limits_memory {
        return;
    }
    let case = backend.case();
    let output = case
        .python("x = bytearray(1500 * 1024 * 1024)\nprint('took it')")
        .await;
    assert!(!output.stdout.contains("took it"), "{output:?}");
    assert_ne!(output.exit_code, Some(0));
    let output = case
        .python("x = bytearray(600 * 1024 * 1024)\nprint('took it')")
        .await;
    assert_eq!(output.stdout, "took it\n", "{output:?}");
}

pub(crate) async fn all_processes_together_cannot_either(backend: &Backend) {
    if !backend.traits.limits_memory {
        return;
    }
    let case = backend.case();
    let source = "import os, time\nfor i in range(6):\n    if os.fork() == 0:\n        \
         x = bytearray(400 * 1024 * 1024)\n        time.sleep(4)\n        os.write(1, b'alive\\n')\n        os._exit(0)\n\
         for i in range(6):\n    os.wait()";
    let output = case.python(source).await;
    // Either all of it is ended, or the kernel picked as many children as needed.
    let alive = output.stdout.lines().count();
    let ended = output
        .ended_by
        .as_deref()
        .is_some_and(|reason| reason.to_lowercase().contains("memory"));
    assert!(ended || alive <= 2, "{output:?}");
}

pub(crate) async fn a_killed_child_does_not_go_unmentioned(backend: &Backend) {
    if !backend.traits.tells_of_killed_children {
        return;
    }
    let case = backend.case();
    // Each may have its part, both together may not. The shell goes on.
    let eat = "(python3 -c \"x = bytearray(400 << 20); import time; time.sleep(5)\" & \
         python3 -c \"x = bytearray(400 << 20); import time; time.sleep(4); print('ate', flush=True)\"; wait)";
    let output = case.sh(&format!("{eat}; echo went on")).await;
    if output.ended_by.as_deref() == Some("out of memory") {
        // All of it was ended.
        return;
    }
    assert!(output.stdout.ends_with("went on\n"), "{output:?}");
    assert!(
        output.warnings.iter().any(|warning| warning.contains("memory")),
        "{output:?}"
    );
}

pub(crate) async fn a_full_disk_is_the_programs_own(backend: &Backend) {
    let case = backend.case();
    let output = case.sh("head -c 2500000000 /dev/zero > /tmp/big").await;
    assert_ne!(output.exit_code, Some(0), "{output:?}");
    // Ended while it goes on filling: had it come to its end, nothing would be there to find fault with.
    let fill = "for i in $(seq 60); do head -c 50000000 /dev/zero > f$i; sleep 0.2; done; rm -f f*";
    let request = case.shell(fill);
    let ended = case.run(&request).await;
    assert!(
        matches!(&ended, Ok(output) if output.unkept.as_deref() == Some("Workspace limit exceeded")),
        "{ended:?}"
    );
    assert!(case.names().await.is_empty());
    assert_eq!(case.text("echo next").await, "next\n");
}
