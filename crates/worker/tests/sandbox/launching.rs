//! Programs of tools in the sandbox: a browser with one way out, servers without any.

use crate::setup::{Setup, start};
use agent::memory::MemoryWorkspace;
use agent::tools::Call;
use domain::{RunId, StepId, ToolResult, UserId};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tools::browser::{Browser, BrowserOfRun, BrowserOptions};
use tools::launch::{Launch, Launched, Network, Size};

const PATIENCE: Duration = Duration::from_secs(20);

fn program(script: &str, network: Network) -> Launch {
    Launch {
        size: Size::Server,
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("TOKEN".to_owned(), "t0ken".to_owned())],
        network,
        readable: vec![],
    }
}

async fn launched(setup: &Setup, launch: Launch) -> Launched {
    setup.sandbox.launcher().launch(launch).await.unwrap()
}

async fn said(mut launched: Launched) -> String {
    let mut text = String::new();
    let (mut out, mut err) = (launched.stdout, launched.stderr);
    out.read_to_string(&mut text).await.unwrap();
    err.read_to_string(&mut text).await.unwrap();
    launched.stdin.shutdown().await.unwrap_or_default();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_its_environment_an_empty_directory_and_no_network() {
    let setup = start().await;
    let look = "env | sort; ls -A /workspace; cat /proc/net/dev | grep -c :; ls /root /home 2>&1; \
                tr '\\0' ' ' < /proc/1/cmdline; (: < /run/state/options) 2>&1; ls /run/state";
    let text = said(launched(&setup, program(look, Network::None)).await).await;
    assert!(
        text.contains("TOKEN=t0ken") && text.contains("HOME=/workspace"),
        "{text}"
    );
    assert!(text.lines().any(|line| line == "1"), "only loopback: {text}");
    assert!(!text.contains("CARGO") && !text.contains("setenv"), "{text}");
    let scratch = setup.scratch.path().join("s");
    let options = walk(&scratch)
        .into_iter()
        .filter(|path| path.ends_with("options"));
    assert_eq!(options.count(), 0, "the options, which hold secrets, are gone");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| [vec![path.clone()], walk(&path)].concat())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_spoken_to_and_ends_with_all_it_started_when_it_is_let_go() {
    let setup = start().await;
    let script = "sleep 987654 & while read -r line; do echo \"heard $line\"; done";
    let mut launched = launched(&setup, program(script, Network::None)).await;
    launched.stdin.write_all(b"one\ntwo\n").await.unwrap();
    let mut lines = BufReader::new(launched.stdout).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "heard one");
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "heard two");
    drop(launched.alive);
    assert_eq!(lines.next_line().await.unwrap(), None);
    let scratch = setup.scratch.path().join("s");
    let empty = || async { (!walk(&scratch).iter().any(|path| path.ends_with("state"))).then_some(()) };
    testkit::eventually_some(PATIENCE, empty).await.unwrap();
}

struct Run {
    browser: BrowserOfRun,
    workspace: MemoryWorkspace,
}

impl Run {
    fn on(setup: &Setup, allow_private: bool) -> Self {
        let options = BrowserOptions {
            browser_cdp_url: None,
            browser_bin: Some("auto".into()),
            browser_allow_private: allow_private,
        };
        let browser = Browser::new(&options, setup.sandbox.launcher());
        assert!(
            browser.is_configured(),
            "there is no Chromium: apt-get install chromium"
        );
        Self {
            browser: BrowserOfRun::new(Arc::new(browser)),
            workspace: MemoryWorkspace::default(),
        }
    }

    async fn call(&self, input: Value) -> ToolResult {
        let call = Call {
            run_id: RunId(uuid::Uuid::nil()),
            step_id: StepId(uuid::Uuid::nil()),
            user_id: &UserId::from("user"),
            tool_name: "browser",
            tool_input: &input,
            idempotency_key: "key",
            epoch: 1,
        };
        self.browser
            .call(&call, &self.workspace, &CancellationToken::new())
            .await
            .unwrap()
    }
}

/// Answers everything with one page.
async fn site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            stream.read(&mut asked).await.unwrap_or_default();
            let page = "<title>Inside</title><p>hello</p>";
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap_or_default();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_in_the_sandbox_reaches_pages_through_its_proxy_only() {
    let (setup, site) = (start().await, site().await);
    let run = Run::on(&setup, true);
    let opened = run.call(json!({"action": "navigate", "url": site})).await;
    assert_eq!((opened.error, &opened.output["title"]), (None, &json!("Inside")));
    let picture = run.call(json!({"action": "screenshot"})).await;
    assert!(
        picture.success && picture.artifacts.len() == 1,
        "{:?}",
        picture.error
    );
    let closed = Run::on(&setup, false);
    let refused = closed.call(json!({"action": "navigate", "url": site})).await;
    assert_eq!(refused.error.as_deref(), Some("Address not allowed"));
}
