use crate::setup::{code, shell, start};
use agent::ports::{SandboxError, Unheard};

#[tokio::test]
async fn exit_codes_and_both_streams_come_back_apart() {
    let setup = start().await;
    let output = setup.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(
        (output.exit_code, output.timed_out, output.ended_by),
        (Some(3), false, None)
    );
    assert!(!output.truncated && !output.ephemeral_workspace);
    assert_eq!(setup.sh("true").await.exit_code, Some(0));
    assert_eq!(setup.sh("no-such-program").await.exit_code, Some(127));
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn a_signal_is_named() {
    let setup = start().await;
    let output = setup.sh("kill -SEGV $$").await;
    assert_eq!(output.ended_by.as_deref(), Some("killed by signal 11"));
    assert_eq!(output.exit_code, Some(139));
}

#[tokio::test]
async fn python_runs_in_the_working_directory_and_shows_its_source_in_errors() {
    let setup = start().await;
    setup.sh("echo 'def add(a, b): return a + b' > mine.py").await;
    let output = setup
        .run(&code(
            "python",
            "import mine\nprint(mine.add(2, 3))\nraise ValueError('boom')",
        ))
        .await
        .unwrap();
    assert_eq!(output.stdout, "5\n");
    assert!(
        output.stderr.contains("line 3") && output.stderr.contains("ValueError: boom"),
        "{}",
        output.stderr
    );
    assert_eq!(output.exit_code, Some(1));
    assert_eq!(setup.names().await, ["mine.py"]);
    let main = setup
        .run(&code("python", "if __name__ == '__main__':\n    print('main')"))
        .await
        .unwrap();
    assert_eq!(main.stdout, "main\n");
}

#[tokio::test]
async fn bash_and_javascript_run_or_say_what_to_install() {
    let setup = start().await;
    let bash = setup
        .run(&code("bash", "x=(1 2 3); echo ${#x[@]}"))
        .await
        .unwrap();
    assert_eq!(bash.stdout, "3\n");
    setup.sh("echo 'module.exports = 41;' > mine.js").await;
    match setup
        .run(&code("javascript", "console.log(require('./mine.js') + 1)"))
        .await
    {
        Ok(output) => assert_eq!(
            (output.stdout.as_str(), output.exit_code),
            ("42\n", Some(0)),
            "{}",
            output.stderr
        ),
        Err(error) => assert_eq!(
            error.to_string(),
            "javascript is not available in the sandbox: install nodejs"
        ),
    }
    for (language, package) in [("typescript", "nodejs"), ("ruby", "ruby"), ("go", "golang-go")] {
        let source = match language {
            "typescript" => "const x: number = 1; console.log(x)",
            "ruby" => "puts 1",
            _ => "package main\nimport \"fmt\"\nfunc main() { fmt.Println(1) }",
        };
        match setup.run(&code(language, source)).await {
            Ok(output) => assert_eq!(output.stdout, "1\n", "{}", output.stderr),
            Err(SandboxError::Unavailable(text)) => {
                let start = format!("{language} is not available in the sandbox: install {package}");
                assert!(text.starts_with(&start), "{text}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_runs() {
    let setup = start().await;
    let mut request = shell("pwd");
    for dir in ["/", "/tmp", "/workspace/../etc", "workspace", "/workspaces", ""] {
        request.working_dir = dir.to_owned();
        let error = setup.run(&request).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Invalid input: working_dir must be inside /workspace",
            "{dir}"
        );
    }
    request.working_dir = "/workspace/missing".to_owned();
    let error = setup.run(&request).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Invalid input: working_dir /workspace/missing does not exist"
    );
    setup.sh("mkdir sub && touch sub/file").await;
    request.working_dir = "/workspace/sub".to_owned();
    assert_eq!(setup.run(&request).await.unwrap().stdout, "/workspace/sub\n");
    request.timeout = std::time::Duration::from_secs(3601);
    assert!(matches!(
        setup.run(&request).await,
        Err(SandboxError::InvalidInput(_))
    ));
    let error = setup.run(&code("cobol", "")).await.unwrap_err();
    assert!(error.to_string().ends_with("not cobol"), "{error}");
}

#[tokio::test]
async fn none_says_what_to_set() {
    use agent::ports::Sandbox;
    let none = worker::sandbox::NoneSandbox;
    let cancel = tokio_util::sync::CancellationToken::new();
    let error = none.run(&shell("true"), &Unheard, &cancel).await.unwrap_err();
    assert_eq!(error.to_string(), "shell is not configured: set TOOL_EXECUTOR");
    let error = none
        .run(&code("python", ""), &Unheard, &cancel)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "code is not configured: set TOOL_EXECUTOR");
}
