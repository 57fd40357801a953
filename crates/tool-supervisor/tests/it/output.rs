use crate::bed::{Bed, sha256};
use crate::pod::Pod;
use toolbox::live::{Channel, Line};
use toolbox::wire::Ending;

#[tokio::test]
async fn a_hundred_megabytes_arrive_whole_and_every_byte_is_shown_once() {
    let bed = Bed::start().await;
    // The tool's own digest of what it prints.
    let command = "yes $(printf %0999d 7) | head -c 100000000 > /tmp/all; \
                   sha256sum < /tmp/all | head -c 64 > digest; cat /tmp/all";
    let mut order = bed.order(command).await;
    order.timeout_ms = 300_000;
    let mut pod = Pod::start(&order);
    assert_eq!(pod.end().await, 0);
    let record = bed.record().await.unwrap();
    assert_eq!((record.stdout.bytes, record.stdout.cut), (100_000_000, false));
    let digest = bed.delta(&record).await.into_values().next().unwrap();
    assert_eq!(record.stdout.sha256.as_bytes(), digest);
    let head = bed
        .client
        .head_object()
        .bucket(bed.s3.bucket())
        .key("run/step/uid/stdout");
    assert_eq!(head.send().await.unwrap().content_length(), Some(100_000_000));
    let (log, mut next) = (pod.log(), 0);
    for line in log.split_terminator('\n').filter_map(Line::parse) {
        assert_eq!(line.offset, next);
        next += line.length;
    }
    assert_eq!(next, 100_000_000);
}

#[tokio::test]
async fn any_bytes_come_back_as_they_were() {
    let bed = Bed::start().await;
    let command = "head -c 300000 /dev/urandom | tee file; printf '\\000\\377\\n\\r' >&2";
    let record = bed.run(command, &[]).await;
    let out = bed.output("stdout").await;
    assert_eq!(out.len(), 300_000);
    assert_eq!(record.stdout.sha256, sha256(&out));
    assert_eq!(record.delta.unwrap().added["file"].sha256, sha256(&out));
    assert_eq!(bed.output("stderr").await, b"\0\xff\n\r");
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted_and_cut() {
    let bed = Bed::start().await;
    let mut order = bed.order("head -c 100000 /dev/zero; echo error >&2").await;
    order.limits.output_bytes = 1000;
    let record = bed.carry_out(&order).await;
    assert_eq!(record.ending, Ending::Exited { code: 0 });
    assert_eq!((record.stdout.bytes, record.stdout.cut), (100_000, true));
    assert_eq!((record.stderr.bytes, record.stderr.cut), (6, false));
    let kept = bed.output("stdout").await;
    assert_eq!((kept.len(), record.stdout.sha256), (1000, sha256(&kept)));
}

#[tokio::test]
async fn a_line_without_an_end_is_shown_while_the_tool_goes_on() {
    let bed = Bed::start().await;
    let command = "printf 'waiting: \\303'; while [ ! -e go ]; do sleep 0.02; done; printf '\\274 done\\n'";
    let mut pod = Pod::start(&bed.order(command).await);
    pod.says("o0:9+waiting: \n").await;
    std::fs::write(pod.workspace().join("go"), "").unwrap();
    assert_eq!(pod.end().await, 0);
    assert!(pod.log().contains("o9:8 ü done\n"), "{}", pod.log());
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_stop_the_tool() {
    let bed = Bed::start().await;
    let order = bed
        .order("yes 'some text' | head -c 20000000; echo end > file")
        .await;
    let mut pod = Pod::start_unread(&order);
    assert_eq!(pod.end().await, 0);
    let record = bed.record().await.unwrap();
    assert_eq!(
        (record.ending, record.stdout.bytes),
        (Ending::Exited { code: 0 }, 20_000_000)
    );
    assert_eq!(bed.output("stdout").await.len(), 20_000_000);
    assert!(pod.shown(Channel::Stdout).is_empty());
}
