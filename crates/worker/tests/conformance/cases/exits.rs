//! How a program ended.

use super::Backend;
use agent::ports::SandboxError;
use futures::future::join_all;
use std::time::Duration;

pub(crate) async fn exit_codes_come_back_as_they_are(backend: &Backend) {
    let case = backend.case();
    let codes = [0, 1, 7, 125, 126, 127, 255];
    let ended = join_all(codes.map(|code| {
        let case = &case;
        async move { case.sh(&format!("exit {code}")).await }
    }))
    .await;
    for (code, output) in codes.into_iter().zip(ended) {
        assert_eq!(
            (output.exit_code, output.timed_out),
            (Some(code), false),
            "{output:?}"
        );
        assert_eq!(output.ended_by, None, "{code}");
    }
}

pub(crate) async fn a_signal_is_told_as_128_and_its_number(backend: &Backend) {
    let case = backend.case();
    for (name, number) in [("SEGV", 11), ("KILL", 9), ("PIPE", 13)] {
        let output = case.sh(&format!("kill -{name} $$; sleep 5")).await;
        assert_eq!(output.exit_code, Some(128 + number), "{output:?}");
        let reason = output.ended_by.unwrap_or_default();
        assert!(reason.contains(&format!("signal {number}")), "{reason}");
    }
}

pub(crate) async fn a_program_that_is_not_there_or_may_not_be_executed_is_told_by_its_shell(
    backend: &Backend,
) {
    let case = backend.case();
    let missing = case.sh("no-such-program").await;
    assert_eq!(missing.exit_code, Some(127));
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
    let plain = case.sh("echo text > plain; ./plain").await;
    assert_eq!(plain.exit_code, Some(126), "{}", plain.stderr);
}

pub(crate) async fn bad_input_is_refused_before_anything_runs(backend: &Backend) {
    let case = backend.case();
    let mut request = case.shell("echo ran > proof");
    for dir in ["/", "/tmp", "/workspace/../etc", "workspace", "/workspaces", ""] {
        request.working_dir = dir.to_owned();
        let error = case.run(&request).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Invalid input: working_dir must be inside /workspace",
            "{dir}"
        );
    }
    request.working_dir = "/workspace".to_owned();
    for seconds in [0, 3601] {
        request.timeout = Duration::from_secs(seconds);
        let error = case.run(&request).await.unwrap_err();
        assert!(matches!(error, SandboxError::InvalidInput(_)), "{error}");
    }
    let error = case.run(&case.code("cobol", "")).await.unwrap_err();
    assert!(
        matches!(&error, SandboxError::InvalidInput(text) if text.ends_with("not cobol")),
        "{error}"
    );
    let error = case.run(&case.shell("echo \0")).await.unwrap_err();
    assert!(matches!(error, SandboxError::InvalidInput(_)), "{error}");
    assert!(case.names().await.is_empty());
}

pub(crate) async fn every_installed_language_runs_in_the_working_directory(backend: &Backend) {
    let case = backend.case();
    case.write("data.txt", "42").await;
    let sources = [
        (
            "python",
            "import sys; print(open('data.txt').read()); sys.exit(3)",
        ),
        (
            "javascript",
            "console.log(require('fs').readFileSync('data.txt', 'utf8')); process.exit(3)",
        ),
        (
            "typescript",
            "import { readFileSync } from 'node:fs'; const x: string = readFileSync('data.txt', 'utf8'); console.log(x); process.exit(3)",
        ),
        ("bash", "x=($(cat data.txt)); echo ${x[0]}; exit 3"),
        ("ruby", "puts File.read('data.txt'); exit 3"),
        (
            "go",
            "package main\nimport (\"fmt\"; \"os\")\nfunc main() { b, _ := os.ReadFile(\"data.txt\"); fmt.Println(string(b)); os.Exit(3) }",
        ),
    ];
    let mut ran = vec![];
    for (language, source) in sources {
        match case.run(&case.code(language, source)).await {
            Ok(output) => {
                assert_eq!(output.stdout, "42\n", "{language}: {output:?}");
                // `go run` tells the program's code on standard error and ends with 1.
                let expected = if language == "go" { 1 } else { 3 };
                assert_eq!(output.exit_code, Some(expected), "{language}: {output:?}");
                ran.push(language);
            }
            Err(SandboxError::Unavailable(text)) => {
                let start = format!("{language} is not available in the sandbox: install ");
                assert!(text.starts_with(&start), "{text}");
            }
            Err(error) => panic!("{language}: {error}"),
        }
    }
    assert!(
        ran.contains(&"python") && ran.contains(&"bash"),
        "only {ran:?} are installed"
    );
    println!("languages that ran: {}", ran.join(", "));
}
