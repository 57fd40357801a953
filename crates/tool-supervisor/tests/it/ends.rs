use crate::bed::Bed;
use crate::pod::Pod;
use nix::sys::signal::Signal;
use toolbox::live::Channel;
use toolbox::wire::Ending;

#[tokio::test]
async fn a_signal_is_told_as_one() {
    let bed = Bed::start().await;
    let record = bed.run("kill -SEGV $$", &[]).await;
    assert_eq!(record.ending, Ending::Signalled { signal: 11 });
}

#[tokio::test]
async fn at_the_time_limit_the_tool_ends_and_its_output_and_files_are_kept() {
    let bed = Bed::start().await;
    let mut order = bed.order("echo before; echo kept > file; sleep 600").await;
    order.timeout_ms = 1000;
    let record = bed.carry_out(&order).await;
    assert_eq!(record.ending, Ending::TimedOut);
    assert_eq!(bed.output("stdout").await, b"before\n");
    assert_eq!(
        bed.delta(&record).await.into_values().collect::<Vec<_>>(),
        [b"kept\n"]
    );
}

#[tokio::test]
async fn at_the_time_limit_the_tool_may_clean_up_before_it_is_killed() {
    let bed = Bed::start().await;
    let mut order = bed
        .order("trap 'echo cleaned; exit 9' TERM; echo up; while :; do sleep 0.05; done")
        .await;
    order.timeout_ms = 1000;
    assert_eq!(bed.carry_out(&order).await.ending, Ending::TimedOut);
    assert_eq!(bed.output("stdout").await, b"up\ncleaned\n");
}

/// Ignores SIGTERM, and has a child in a session of its own that ignores it as well.
const STUBBORN: &str = "trap '' TERM; \
    setsid sh -c 'trap \"\" TERM; echo child; while :; do echo x >> beats; sleep 0.02; done' & \
    echo work > file; echo up; while :; do sleep 0.05; done";

#[tokio::test]
async fn told_to_stop_every_process_dies_and_what_there_is_is_stored() {
    let bed = Bed::start().await;
    let mut pod = Pod::start(&bed.order(STUBBORN).await);
    for words in [" up", " child"] {
        pod.says(words).await;
    }
    pod.signal(Signal::SIGTERM);
    assert_eq!(pod.end().await, 0, "{}", pod.log());
    let record = bed.record().await.unwrap();
    assert_eq!(record.ending, Ending::Cancelled);
    let delta = record.delta.as_ref().unwrap();
    assert_eq!(delta.added.keys().collect::<Vec<_>>(), ["beats", "file"]);
    // Had the child still lived, its file would have changed while it was stored.
    let beats = std::fs::read(pod.workspace().join("beats")).unwrap();
    assert_eq!(delta.added["beats"], crate::bed::file(&beats));
}

#[tokio::test]
async fn told_to_stop_before_the_tool_begins_leaves_no_trace() {
    let mut bed = Bed::start().await;
    let order = bed.order("echo ran").await;
    bed.s3.stop().await;
    let mut pod = Pod::start(&order);
    pod.says("fetching the workspace").await;
    pod.signal(Signal::SIGTERM);
    assert_eq!(pod.end().await, 75);
    bed.s3.restart().await;
    assert!(bed.get("run/step/uid/started").await.is_none());
    // So it can simply be done again.
    assert_eq!(bed.carry_out(&order).await.ending, Ending::Exited { code: 0 });
}

#[tokio::test]
async fn what_the_tool_leaves_running_ends_with_it() {
    let bed = Bed::start().await;
    let command =
        "setsid sleep 600 & sh -c 'sleep 600 & echo orphan' ; (trap '' TERM HUP; sleep 600) & exit 4";
    let mut pod = Pod::start(&bed.order(command).await);
    assert_eq!(pod.end().await, 0);
    let record = bed.record().await.unwrap();
    assert_eq!(record.ending, Ending::Exited { code: 4 });
    assert_eq!(pod.shown(Channel::Stdout), "orphan\n");
    assert!(record.durations.run_ms < 60_000, "nobody was waited for");
}
