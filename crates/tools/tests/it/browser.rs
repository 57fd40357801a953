//! The tool `browser` with a real Chromium and pages on loopback.

use crate::bare::Bare;
use agent::memory::MemoryWorkspace;
use agent::ports::Workspace as _;
use agent::tools::{Call, ToolError};
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{COOKIE, LOCATION, SET_COOKIE};
use axum::response::Html;
use axum::routing::get;
use domain::ToolResult;
use domain::ids::{RunId, StepId, UserId};
use futures::future::BoxFuture;
use outbound::{Guard, Looked, Lookup};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tools::browser::{Browser, BrowserOfRun, BrowserOptions};
use uuid::Uuid;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Pages, and how often anything was asked for.
pub(crate) struct Site {
    pub(crate) address: String,
    asked: Arc<AtomicUsize>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let count = |State(asked): State<Arc<AtomicUsize>>,
                     request: axum::extract::Request,
                     next: axum::middleware::Next| async move {
            asked.fetch_add(1, Ordering::SeqCst);
            next.run(request).await
        };
        let router = Router::new()
            .route("/", get(|| async {
                ([(SET_COOKIE, "seen=yes; Path=/")], Html("<title>Start</title><h1>Hello</h1><script>hidden()</script>"))
            }))
            .route("/cookie", get(|headers: HeaderMap| async move {
                let cookie = headers.get(COOKIE).map_or("none", |value| value.to_str().unwrap());
                Html(format!("<title>Cookie</title><p id=c>{cookie}</p>"))
            }))
            .route("/form", get(|| async {
                Html(
                    "<title>Form</title><form action=/found target=_blank><input name=q id=q value=old>\
                     <select id=s><option value=1>one<option value=2>two</select><button id=go>Go</button></form>\
                     <a id=away target=_blank href=/>away</a><p id=late></p>\
                     <script>setTimeout(() => { const b = document.createElement('b'); b.id = 'later'; b.textContent = 'now';\
                     document.body.append(b); }, 300);</script>",
                )
            }))
            .route("/found", get(|query: axum::extract::RawQuery| async move {
                Html(format!("<title>Found</title><p>{}</p>", query.0.unwrap_or_default()))
            }))
            .route("/dialog", get(|| async { Html("<title>D</title><script>alert('stop'); window.onbeforeunload = e => { e.preventDefault(); }</script><p>after</p>") }))
            .route("/gone", get(|| async { (axum::http::StatusCode::NOT_FOUND, Html("<title>Gone</title>no")) }))
            .route("/slow", get(|| async {
                tokio::time::sleep(Duration::from_mins(1)).await;
                "slow"
            }))
            .route("/to", get(|query: axum::extract::RawQuery| async move {
                (axum::http::StatusCode::FOUND, [(LOCATION, query.0.unwrap_or_default())])
            }))
            .route("/secret", get(|| async { "the secret" }))
            .layer(axum::middleware::from_fn_with_state(asked.clone(), count));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, asked }
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub(crate) fn chromium() -> PathBuf {
    let names = [
        "/usr/bin/chromium",
        "/usr/bin/chromium-browser",
        "/usr/bin/google-chrome",
    ];
    let found = names.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("there is no Chromium: apt-get install chromium, or scripts/local/test.sh")
}

pub(crate) struct Run {
    browser: BrowserOfRun,
    pub(crate) workspace: MemoryWorkspace,
    launcher: Arc<Bare>,
}

impl Run {
    pub(crate) fn with(options: &BrowserOptions, guard: Option<Guard>) -> Self {
        let launcher = Arc::new(Bare::default());
        let mut browser = Browser::new(options, launcher.clone());
        if let Some(guard) = guard {
            browser = browser.with_guard(guard);
        }
        Self {
            browser: BrowserOfRun::new(Arc::new(browser)),
            workspace: MemoryWorkspace::default(),
            launcher,
        }
    }

    fn local(allow_private: bool) -> Self {
        let options = BrowserOptions {
            browser_cdp_url: None,
            browser_bin: Some(chromium()),
            browser_allow_private: allow_private,
        };
        Self::with(&options, None)
    }

    pub(crate) async fn try_call(
        &self,
        input: Value,
        cancel: &CancellationToken,
    ) -> Result<ToolResult, ToolError> {
        let call = Call {
            run_id: RunId(Uuid::nil()),
            step_id: StepId(Uuid::nil()),
            user_id: &UserId::from("user"),
            tool_name: "browser",
            tool_input: &input,
            idempotency_key: "key",
            epoch: 1,
        };
        self.browser.call(&call, &self.workspace, cancel).await
    }

    pub(crate) async fn call(&self, input: Value) -> ToolResult {
        self.try_call(input, &CancellationToken::new()).await.unwrap()
    }

    /// The output of a call that must succeed.
    pub(crate) async fn done(&self, input: Value) -> Value {
        let result = self.call(input.clone()).await;
        assert!(result.success, "{input}: {:?}", result.error);
        assert_eq!(result.output["success"], true);
        assert!((result.credits_used - 3.0).abs() < f64::EPSILON);
        result.output
    }

    pub(crate) async fn fails(&self, input: Value) -> String {
        let result = self.call(input.clone()).await;
        assert!(!result.success, "{input}: {}", result.output);
        result.error.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_cookies_carry_over_from_step_to_step() {
    let (site, run) = (Site::start().await, Run::local(true));
    let output = run.done(json!({"action": "navigate", "url": site.at("/")})).await;
    assert_eq!(
        output,
        json!({"success": true, "url": site.at("/"), "title": "Start", "status": 200})
    );
    let output = run.done(json!({"action": "extract"})).await;
    assert_eq!(
        (&output["content"], &output["title"]),
        (&json!("Hello"), &json!("Start"))
    );
    run.done(json!({"action": "navigate", "url": site.at("/cookie")}))
        .await;
    let output = run.done(json!({"action": "extract", "selector": "#c"})).await;
    assert_eq!(output["content"], "seen=yes");
    let output = run
        .done(json!({"action": "navigate", "url": site.at("/gone")}))
        .await;
    assert_eq!(output["status"], 404);
    // An action may name its page.
    let output = run.done(json!({"action": "extract", "url": site.at("/")})).await;
    assert_eq!(output["content"], "Hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_filled_in_and_sent_and_new_windows_open_in_the_one_there_is() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/form")}))
        .await;
    let output = run
        .done(json!({"action": "type", "selector": "#q", "text": "new words"}))
        .await;
    assert_eq!(output, json!({"success": true, "selector": "#q", "typed": true}));
    run.done(json!({"action": "type", "selector": "#s", "text": "two"}))
        .await;
    let script = json!({"action": "execute_js", "javascript": "[q.value, s.value]"});
    assert_eq!(run.done(script).await["result"], json!(["new words", "2"]));
    let output = run.done(json!({"action": "click", "selector": "#go"})).await;
    assert_eq!(output["clicked"], true);
    assert_eq!(output["url"], site.at("/found?q=new+words"));
    run.done(json!({"action": "navigate", "url": site.at("/form")}))
        .await;
    run.done(json!({"action": "type", "selector": "#q", "text": "by key\n"}))
        .await;
    let output = run.done(json!({"action": "extract"})).await;
    assert_eq!(output["content"], "q=by+key");
    run.done(json!({"action": "navigate", "url": site.at("/form")}))
        .await;
    let output = run.done(json!({"action": "click", "selector": "#away"})).await;
    assert_eq!(output["url"], site.at("/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_are_waited_for_and_missing_ones_told() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/form")}))
        .await;
    let output = run.done(json!({"action": "extract", "selector": "#later"})).await;
    assert_eq!(output["content"], "now");
    let missing = json!({"action": "click", "selector": "#nowhere", "timeout": 1000});
    assert_eq!(run.fails(missing).await, "No element matches #nowhere");
    let wrong = json!({"action": "click", "selector": "###"});
    assert!(run.fails(wrong).await.starts_with("Invalid input: selector"));
    let typed = json!({"action": "type", "selector": "#late", "text": "x"});
    assert_eq!(run.fails(typed).await, "#late cannot be typed into");
    let slow = json!({"action": "navigate", "url": site.at("/slow"), "timeout": 800});
    assert_eq!(run.fails(slow).await, "Timed out after 800 ms");
    let nothing = json!({"action": "navigate", "url": "http://127.0.0.1:1/"});
    assert!(run.fails(nothing).await.starts_with("Navigation failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_give_their_value_and_their_error() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/")})).await;
    let js = |script: &str| json!({"action": "execute_js", "javascript": script});
    assert_eq!(run.done(js("document.title")).await["result"], "Start");
    assert_eq!(run.done(js("return 6 * 7")).await["result"], 42);
    assert_eq!(
        run.done(js("Promise.resolve({a: [1]})")).await["result"],
        json!({"a": [1]})
    );
    assert_eq!(run.done(js("undefined")).await["result"], Value::Null);
    assert_eq!(
        run.fails(js("nothing.there")).await,
        "The script failed: ReferenceError: nothing is not defined"
    );
    let large = js("'x'.repeat(3000000)");
    assert_eq!(run.fails(large).await, "the result is larger than 1 MiB");
    let endless = json!({"action": "execute_js", "javascript": "for(;;){}", "timeout": 500});
    assert!(!run.call(endless).await.success);
    // The page is still of use.
    assert_eq!(run.done(js("1 + 1")).await["result"], 2);
    run.done(js(&format!("location.href = '{}'", site.at("/gone"))))
        .await;
    assert_eq!(run.done(js("document.title")).await["result"], "Gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screenshot_is_a_file_of_the_workspace() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/")})).await;
    let result = run.call(json!({"action": "screenshot"})).await;
    assert!(result.success, "{:?}", result.error);
    assert_eq!(result.output["format"], "png");
    assert!(
        result.output["screenshot"]
            .as_str()
            .unwrap()
            .starts_with("iVBORw0KGgo")
    );
    let [artifact] = result.artifacts.as_slice() else {
        panic!("one artifact: {:?}", result.artifacts)
    };
    let stored = run.workspace.read(&artifact.file_path).await.unwrap();
    assert!(stored.starts_with(b"\x89PNG"));
    assert_eq!(result.output["sha256"], artifact.content_hash);
    assert_eq!(result.changes.len(), 1);
    let part = run.call(json!({"action": "screenshot", "selector": "h1"})).await;
    assert!(part.success && part.artifacts[0].file_size < artifact.file_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn dialogs_hold_nothing_up() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/dialog")}))
        .await;
    assert_eq!(run.done(json!({"action": "extract"})).await["content"], "after");
    run.done(json!({"action": "click", "selector": "p"})).await;
    run.done(json!({"action": "navigate", "url": site.at("/")})).await;
}

/// One name that leads outside, to a port of ours all the same: the first answer is a public address's.
#[derive(Debug)]
struct Names;

impl Lookup for Names {
    fn addresses(&self, host: String) -> BoxFuture<'static, Looked> {
        let address = if host == "outside.example" {
            [127, 0, 0, 1]
        } else {
            [10, 0, 0, 1]
        };
        Box::pin(std::future::ready(Ok(vec![address.into()])))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inner_addresses_are_not_opened() {
    let (site, run) = (Site::start().await, Run::local(false));
    for url in [
        site.at("/"),
        site.at("/").replace("127.0.0.1", "localhost"),
        site.at("/").replace("127.0.0.1", "2130706433"),
        site.at("/").replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "chrome://version".to_owned(),
        "about:blank".to_owned(),
    ] {
        let error = run.fails(json!({"action": "navigate", "url": url})).await;
        assert_eq!(error, "Address not allowed", "{url}");
    }
    assert_eq!(site.asked(), 0);
}

/// A site that counts as outside by its name and port, and another one inside.
pub(crate) async fn outside_and_inside(run: impl Fn(Guard) -> Run) -> (Site, Site, Run) {
    let (outside, inside) = (Site::start().await, Site::start().await);
    let port = outside.address.rsplit(':').next().unwrap();
    let named = format!("http://outside.example:{port}");
    let trusted = named.parse().unwrap();
    let guard = Guard::new(false)
        .trusting([&trusted])
        .with_lookup(Arc::new(Names));
    let run = run(guard);
    let outside = Site {
        address: named,
        asked: outside.asked,
    };
    (outside, inside, run)
}

pub(crate) async fn what_a_page_tries_inside_fails(outside: Site, inside: Site, run: Run) {
    run.done(json!({"action": "navigate", "url": outside.at("/")}))
        .await;
    let tries = [
        format!(
            "fetch('{}', {{mode: 'no-cors'}}).then(r => r.type + r.status, () => 'failed')",
            inside.at("/secret")
        ),
        format!(
            "new Promise(done => {{ const f = document.createElement('iframe'); f.onload = () => done('loaded'); \
             f.onerror = () => done('failed'); f.src = '{}'; document.body.append(f); }})",
            inside.at("/secret")
        ),
        format!(
            "new Promise(done => {{ const i = new Image(); i.onload = () => done('loaded'); \
             i.onerror = () => done('failed'); i.src = '{}'; }})",
            inside.at("/secret")
        ),
        format!(
            "new Promise(done => {{ const s = new WebSocket('{}'); s.onopen = () => done('open'); \
             s.onerror = () => done('failed'); }})",
            inside.at("/secret").replace("http", "ws")
        ),
        "fetch('http://named-inside.example/', {mode: 'no-cors'}).then(r => r.status, () => 'failed')"
            .to_owned(),
    ];
    for script in tries {
        let outcome = run
            .call(json!({"action": "execute_js", "javascript": script, "timeout": 5000}))
            .await;
        assert_ne!(outcome.output["result"], "open", "{script}");
    }
    // Redirects, names, and the page's own way.
    for url in [
        outside.at(&format!("/to?{}", inside.at("/secret"))),
        "http://named-inside.example/".to_owned(),
    ] {
        let error = run
            .fails(json!({"action": "navigate", "url": url, "timeout": 5000}))
            .await;
        assert_eq!(error, "Address not allowed", "{url}");
    }
    run.done(json!({"action": "navigate", "url": outside.at("/")}))
        .await;
    let away = format!("location.href = '{}'", inside.at("/secret"));
    let led = run
        .call(json!({"action": "execute_js", "javascript": away, "timeout": 5000}))
        .await;
    let shown = run.call(json!({"action": "extract"})).await;
    assert!(!led.output.to_string().contains("the secret"), "{led:?}");
    assert!(!shown.output.to_string().contains("the secret"), "{shown:?}");
    assert_eq!(inside.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_asks_for_inside_is_never_connected_to() {
    let options = BrowserOptions {
        browser_cdp_url: None,
        browser_bin: Some(chromium()),
        browser_allow_private: false,
    };
    let (outside, inside, run) = outside_and_inside(|guard| Run::with(&options, Some(guard))).await;
    what_a_page_tries_inside_fails(outside, inside, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_is_told_and_the_next_call_starts_another() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/")})).await;
    let pid = run.launcher.pid.load(Ordering::Relaxed);
    let script = json!({"action": "execute_js", "javascript": "new Promise(() => {})"});
    let cancel = CancellationToken::new();
    let waiting = run.try_call(script, &cancel);
    let kill = async {
        let status = tokio::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .await;
        assert!(status.unwrap().success());
    };
    let (ended, ()) = tokio::join!(waiting, kill);
    // Before or during the action; never as if it had been done.
    match ended {
        Err(ToolError::Unknown(text)) => assert_eq!(text, "the browser ended during the action"),
        Ok(result) => assert!(!result.success || result.output["result"].is_null()),
        other => panic!("{other:?}"),
    }
    let output = run
        .done(json!({"action": "navigate", "url": site.at("/cookie")}))
        .await;
    assert_eq!(output["title"], "Cookie");
    assert_eq!(run.done(json!({"action": "extract"})).await["content"], "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_call_ends_at_once_and_the_browser_with_its_run() {
    let (site, run) = (Site::start().await, Run::local(true));
    run.done(json!({"action": "navigate", "url": site.at("/")})).await;
    let cancel = CancellationToken::new();
    let slow = json!({"action": "navigate", "url": site.at("/slow")});
    let stop = async {
        let before = site.asked();
        let begun = || async { (site.asked() > before).then_some(()) };
        testkit::eventually_some(PATIENCE, begun).await.unwrap();
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(run.try_call(slow, &cancel), stop);
    assert!(matches!(ended, Err(ToolError::Cancelled)));
    let process = PathBuf::from(format!(
        "/proc/{}/cmdline",
        run.launcher.pid.load(Ordering::Relaxed)
    ));
    drop(run);
    let gone = || async {
        std::fs::read(&process)
            .unwrap_or_default()
            .is_empty()
            .then_some(())
    };
    testkit::eventually_some(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn without_a_browser_the_setting_is_named() {
    let run = Run::with(&BrowserOptions::default(), None);
    let result = run
        .call(json!({"action": "navigate", "url": "http://example.org/"}))
        .await;
    assert_eq!(
        result.error.unwrap(),
        "browser is not configured: set BROWSER_CDP_URL"
    );
    assert!(result.credits_used.abs() < f64::EPSILON);
    let away = BrowserOptions {
        browser_bin: Some("/nowhere/chromium".into()),
        ..BrowserOptions::default()
    };
    let error = Run::with(&away, None).fails(json!({"action": "extract"})).await;
    assert!(error.starts_with("browser is not available: "), "{error}");
}
