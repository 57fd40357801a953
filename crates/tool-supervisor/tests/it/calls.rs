use crate::bed::{Bed, sha256, shell};
use crate::pod::Pod;
use toolbox::live::Channel;
use toolbox::wire::{Ending, FailureClass, Program};

#[tokio::test]
async fn a_command_runs_and_its_record_says_all() {
    let bed = Bed::start().await;
    let order = bed.order("echo hello; echo oops >&2; exit 3").await;
    let mut pod = Pod::start(&order);
    assert_eq!(pod.end().await, 0, "{}{}", pod.log(), pod.errors());
    let record = bed.record().await.unwrap();
    assert_eq!(record.ending, Ending::Exited { code: 3 });
    assert_eq!(
        (record.spec_hash.as_str(), record.job_uid.as_str()),
        (order.spec_hash.as_str(), "uid")
    );
    assert_eq!((record.stdout.bytes, record.stdout.cut), (6, false));
    assert_eq!(record.stdout.sha256, sha256(b"hello\n"));
    assert_eq!(bed.output("stdout").await, b"hello\n");
    assert_eq!(bed.output("stderr").await, b"oops\n");
    assert_eq!(pod.shown(Channel::Stdout), "hello\n");
    assert_eq!(pod.shown(Channel::Stderr), "oops\n");
    let delta = record.delta.unwrap();
    assert!(
        delta.added.is_empty() && delta.changed.is_empty() && delta.deleted.is_empty() && delta.bytes == 0
    );
    assert_eq!((record.out_of_memory, record.warnings.len()), (None, 0));
}

#[tokio::test]
async fn the_tool_sees_four_variables_an_empty_input_and_nothing_of_ours() {
    let bed = Bed::start().await;
    let command = "env | sort; cat; cat /run/agent-order/order.json; ls /run/agent-order /run; \
                   cat /proc/1/environ; head -c 10 /proc/1/mem; ls /proc/1/fd; true";
    let record = bed.run(command, &[]).await;
    assert_eq!(record.ending, Ending::Exited { code: 0 });
    let out = String::from_utf8(bed.output("stdout").await).unwrap();
    let variables: Vec<&str> = out.lines().filter(|line| line.contains('=')).collect();
    assert_eq!(
        variables,
        [
            "HOME=/workspace",
            "LANG=C.UTF-8",
            "PATH=/usr/local/bin:/usr/local/go/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PWD=/workspace",
            "SHLVL=1",
            "TMPDIR=/tmp",
            "_=/usr/bin/env"
        ],
        "bash adds PWD, SHLVL and _"
    );
    assert!(!out.contains("http") && !out.contains("KUBERNETES"), "{out}");
    let errors = String::from_utf8(bed.output("stderr").await).unwrap();
    for refused in ["/run/agent-order/order.json", "/proc/1/environ", "/proc/1/fd"] {
        assert!(errors.contains(refused), "{refused}: {errors}");
    }
}

#[tokio::test]
async fn source_texts_run_in_the_working_directory() {
    let bed = Bed::start().await;
    let files: &[(&str, &[u8])] = &[("sub/mine.py", b"def add(a, b): return a + b\n")];
    let program = Program::Code {
        language: "python".to_owned(),
        code: "import mine, sys\nprint(mine.add(2, 3), sys.argv)\nraise ValueError('boom')".to_owned(),
    };
    let mut order = bed.order_of(program, &bed.manifest(files).await).await;
    order.working_dir = "/workspace/sub".to_owned();
    let record = bed.carry_out(&order).await;
    assert_eq!(record.ending, Ending::Exited { code: 1 });
    assert_eq!(bed.output("stdout").await, b"5 ['main.py']\n");
    let errors = String::from_utf8(bed.output("stderr").await).unwrap();
    assert!(
        errors.contains("line 3") && errors.contains("ValueError: boom"),
        "{errors}"
    );
    assert!(
        record.delta.unwrap().added.is_empty(),
        "no files of ours or of the interpreter"
    );
}

#[tokio::test]
async fn a_program_too_long_for_the_order_comes_with_the_manifest() {
    let bed = Bed::start().await;
    let mut manifest = bed.manifest(&[]).await;
    let filler = "#".repeat(600_000);
    manifest.program = Some(shell(&format!("echo $# \"$0\" | head -c 1\n{filler}\necho end")));
    let mut order = bed.order_of(shell(""), &manifest).await;
    order.program = None;
    assert_eq!(bed.carry_out(&order).await.ending, Ending::Exited { code: 0 });
    assert_eq!(bed.output("stdout").await, b"0end\n");
}

#[tokio::test]
async fn what_the_image_lacks_is_said_and_nothing_runs() {
    let bed = Bed::start().await;
    let class = |record: &toolbox::wire::Record| match &record.ending {
        Ending::Failed { class, message } => (*class, message.clone()),
        other => panic!("{other:?}"),
    };
    let mut order = bed.order("touch ran").await;
    order.working_dir = "/workspace/missing".to_owned();
    let record = bed.carry_out(&order).await;
    let text = "working_dir /workspace/missing does not exist".to_owned();
    assert_eq!(class(&record), (FailureClass::Configuration, text));
    assert!(record.delta.is_none());
}

#[tokio::test]
async fn a_wrong_order_is_refused_without_a_word_of_it() {
    for order in [
        "",
        "{\"version\":1,\"manifest_url\":\"http://secret\"}",
        "{\"version\":2,\"put\":[\"http://secret\"]}",
    ] {
        let mut pod = Pod::start_with(order);
        assert_eq!(pod.end().await, 64);
        assert!(
            pod.errors().contains("order") && !pod.errors().contains("secret"),
            "{}",
            pod.errors()
        );
    }
}

#[tokio::test]
async fn a_second_start_of_the_same_job_does_nothing() {
    let bed = Bed::start().await;
    let order = bed.order("echo once > file; date +%N").await;
    assert_eq!(bed.carry_out(&order).await.ending, Ending::Exited { code: 0 });
    let first = bed.output("stdout").await;
    let mut again = Pod::start(&order);
    assert_eq!(again.end().await, 73);
    assert!(again.log().contains("started before"));
    assert_eq!(bed.output("stdout").await, first);
    assert!(!again.workspace().join("file").exists());
}
