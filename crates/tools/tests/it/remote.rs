//! The tool `browser` with a Chromium that runs already, reached at its debugging address.

use crate::browser::{PATIENCE, Run, Site, chromium, outside_and_inside, what_a_page_tries_inside_fails};
use crate::setup::options;
use agent::ports::Workspace as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tools::browser::BrowserOptions;

/// A Chromium of somebody else's, with a page and cookies of its own.
struct Remote {
    _child: Child,
    _profile: tempfile::TempDir,
    port: u16,
    /// Path of the socket.
    path: String,
}

impl Remote {
    async fn start(shows: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(chromium())
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--no-first-run", "--remote-debugging-port=0"])
            .arg("--host-resolver-rules=MAP *.example 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(shows)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let file = profile.path().join("DevToolsActivePort");
        let told = || async {
            let text = std::fs::read_to_string(&file).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some((port.parse().ok()?, path.trim().to_owned()))
        };
        let (port, path) = testkit::eventually_some(PATIENCE, told).await.unwrap();
        Self {
            _child: child,
            _profile: profile,
            port,
            path,
        }
    }

    fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}{}", self.port, self.path)
    }

    /// Addresses of all pages in it.
    async fn pages(&self) -> Vec<String> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/json/list", self.http());
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        let list: Vec<Value> = serde_json::from_str(&text).unwrap();
        let url = |page: &Value| page["url"].as_str().unwrap_or_default().to_owned();
        list.iter().map(url).collect()
    }
}

fn at(url: &str, allow_private: bool) -> BrowserOptions {
    BrowserOptions {
        browser_cdp_url: Some(url.to_owned()),
        browser_bin: None,
        browser_allow_private: allow_private,
    }
}

async fn cookie(run: &Run, site: &Site) -> Value {
    run.done(json!({"action": "navigate", "url": site.at("/cookie")}))
        .await;
    let shown = run.done(json!({"action": "extract", "selector": "#c"})).await;
    shown["content"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_browser_carries_cookies_over_makes_pictures_and_keeps_runs_apart() {
    let site = Site::start().await;
    // Its owner was here before, and has the cookie.
    let remote = Remote::start(&site.at("/")).await;
    let visited = || async { (site.asked() > 0).then_some(()) };
    testkit::eventually_some(PATIENCE, visited).await.unwrap();

    for url in [remote.http(), format!("{}/", remote.http()), remote.ws()] {
        let told = options(&[("browser-cdp-url", &url)]).overview(false).await;
        let told = told.into_iter().find(|line| line.name == "browser").unwrap();
        let told = told.result.unwrap();
        assert!(
            told.contains("Chrome/") && told.ends_with(" answers at BROWSER_CDP_URL"),
            "{told}"
        );
        let run = Run::with(&at(&url, true), None);
        assert_eq!(
            cookie(&run, &site).await,
            "none",
            "the owner's cookies are not ours: {url}"
        );
        let output = run.done(json!({"action": "navigate", "url": site.at("/")})).await;
        assert_eq!(
            (&output["title"], &output["status"]),
            (&json!("Start"), &json!(200))
        );
        assert_eq!(cookie(&run, &site).await, "seen=yes", "{url}");
        let other = Run::with(&at(&url, true), None);
        assert_eq!(
            cookie(&other, &site).await,
            "none",
            "a run's cookies are its own: {url}"
        );

        let result = run.call(json!({"action": "screenshot"})).await;
        assert!(result.success, "{:?}", result.error);
        let [artifact] = result.artifacts.as_slice() else {
            panic!("one artifact: {:?}", result.artifacts)
        };
        let stored = run.workspace.read(&artifact.file_path).await.unwrap();
        assert!(stored.starts_with(b"\x89PNG"));

        let ours = || async {
            let pages = remote.pages().await;
            pages.iter().filter(|page| page.contains("/cookie")).count()
        };
        assert_eq!(ours().await, 2, "{url}");
        drop((run, other));
        let closed = || async { (ours().await == 0).then_some(()) };
        testkit::eventually_some(PATIENCE, closed).await.unwrap();
        assert!(
            remote.pages().await.contains(&site.at("/")),
            "the owner's page is left alone: {:?}",
            remote.pages().await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_in_a_remote_browser_asks_for_inside_is_never_connected_to() {
    let remote = Remote::start("about:blank").await;
    let options = at(&remote.http(), false);
    let (outside, inside, run) = outside_and_inside(|guard| Run::with(&options, Some(guard))).await;
    what_a_page_tries_inside_fails(outside, inside, run).await;
}

/// A script that starts a worker and gives what it posts.
fn worker(body: &str) -> String {
    format!(
        "new Promise(done => {{ const w = new Worker(URL.createObjectURL(new Blob([{}]))); \
         w.onmessage = e => done(e.data); w.onerror = () => done('failed'); }})",
        json!(body)
    )
}

/// A script that follows a link into another window.
fn linked(url: &str, rel: &str) -> String {
    format!(
        "(() => {{ const a = document.createElement('a'); a.href = '{url}'; a.target = '_blank'; a.rel = '{rel}'; \
         document.body.append(a); a.click(); return new Promise(done => setTimeout(done, 500)); }})()"
    )
}

/// Scripts that try to ask for `secret` past the judge. Prefetching by speculation rules is not among them: docs/SECURITY.md.
fn ways_to(secret: &str) -> [String; 12] {
    let socket = secret.replace("http", "ws");
    let fetching = format!(
        "fetch('{secret}', {{mode: 'no-cors'}}).then(() => postMessage('got'), () => postMessage('failed'))"
    );
    [
        // The window of a frame that is empty and new.
        format!(
            "(() => {{ const f = document.createElement('iframe'); document.body.append(f); \
             return new Promise(done => {{ const s = new f.contentWindow.WebSocket('{socket}'); \
             s.onopen = s.onerror = () => done('tried'); }}); }})()"
        ),
        worker(&format!(
            "try {{ const s = new WebSocket('{socket}'); s.onopen = s.onerror = () => postMessage('tried'); }} \
             catch (e) {{ postMessage('no way'); }}"
        )),
        worker(&fetching),
        worker(&format!(
            "try {{ importScripts('{secret}'); }} catch (e) {{}} postMessage('tried')"
        )),
        worker(&format!(
            "const w = new Worker(URL.createObjectURL(new Blob([{}]))); w.onmessage = e => postMessage(e.data)",
            json!(fetching)
        )),
        format!("navigator.sendBeacon('{secret}', 'x'); new Promise(done => setTimeout(done, 300))"),
        format!(
            "(() => {{ const l = document.createElement('link'); l.rel = 'prefetch'; l.href = '{secret}'; \
             document.head.append(l); \
             return new Promise(done => {{ l.onload = l.onerror = () => done(); setTimeout(done, 500); }}); }})()"
        ),
        format!(
            "(() => {{ const s = document.createElement('script'); s.type = 'speculationrules'; \
             s.textContent = JSON.stringify({{prerender: [{{urls: ['{secret}'], eagerness: 'immediate'}}]}}); \
             document.head.append(s); return new Promise(done => setTimeout(done, 500)); }})()"
        ),
        // Windows of their own, of the page and of a frame.
        linked(secret, "noopener"),
        linked(secret, "opener"),
        format!(
            "(() => {{ const f = document.createElement('iframe'); document.body.append(f); \
             delete f.contentWindow.open; f.contentWindow.open('{secret}'); \
             return new Promise(done => setTimeout(done, 500)); }})()"
        ),
        format!(
            "new Promise(done => {{ const s = new EventSource('{secret}'); s.onopen = s.onerror = () => done('tried'); }})"
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_browser_has_no_ways_inside_that_are_not_requests_of_the_page() {
    let remote = Remote::start("about:blank").await;
    let options = at(&remote.http(), false);
    let (outside, inside, run) = outside_and_inside(|guard| Run::with(&options, Some(guard))).await;
    run.done(json!({"action": "navigate", "url": outside.at("/")}))
        .await;
    for script in ways_to(&inside.at("/secret")) {
        let outcome = run
            .call(json!({"action": "execute_js", "javascript": script, "timeout": 5000}))
            .await;
        assert_eq!(inside.asked(), 0, "{script}: {outcome:?}");
        assert_ne!(outcome.output["result"], "got", "{script}");
    }
    let ways = json!({"action": "execute_js", "javascript": "[typeof RTCPeerConnection, typeof WebSocket]"});
    assert_eq!(run.done(ways).await["result"], json!(["undefined", "undefined"]));
    // Workers work, for what is allowed.
    let allowed = worker(&format!(
        "fetch('{}').then(r => r.text()).then(postMessage, () => postMessage('failed'))",
        outside.at("/secret")
    ));
    let works = run
        .done(json!({"action": "execute_js", "javascript": allowed}))
        .await;
    assert_eq!(works["result"], "the secret");
}

/// An address whose `/json/version` answers so.
async fn telling(status: StatusCode, body: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/json/version", get(move || async move { (status, body) }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    here
}

/// A socket that answers every message so.
async fn babbling(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("ws://{}/devtools/browser/x", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                continue;
            };
            tokio::spawn(async move {
                while let Some(Ok(_)) = socket.next().await {
                    if socket.send(Message::text(answer)).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_a_browser_behind_it_is_told_without_the_address() {
    let ok = StatusCode::OK;
    let host = "Host header is specified and is not an IP address or localhost.";
    let free = testkit::free_port();
    for (url, said) in [
        (format!("http://127.0.0.1:{free}"), "no connection: "),
        (format!("ws://127.0.0.1:{free}/devtools/browser/x"), "refused"),
        (
            telling(StatusCode::INTERNAL_SERVER_ERROR, host.to_owned()).await,
            "/json/version answered 500: Host header",
        ),
        (
            telling(ok, "<html>".to_owned()).await,
            "is no browser: /json/version is not JSON",
        ),
        (
            telling(ok, "{}".to_owned()).await,
            "it told no webSocketDebuggerUrl",
        ),
        (
            telling(
                ok,
                json!({"webSocketDebuggerUrl": "http://127.0.0.1/"}).to_string(),
            )
            .await,
            "no ws address",
        ),
        // Speaks HTTP, and no WebSocket.
        (telling(ok, String::new()).await.replace("http", "ws"), "404"),
        (babbling("no JSON").await, "it did not start in time"),
        (
            babbling(r#"{"id": 1, "error": {"message": "Not supported"}}"#).await,
            "Not supported",
        ),
        ("wss://127.0.0.1/".to_owned(), "wss is not supported: http or ws"),
        ("somewhere".to_owned(), "relative URL"),
    ] {
        let run = Run::with(&at(&url, true), None);
        let error = run
            .fails(json!({"action": "navigate", "url": "http://127.0.0.1:1/", "timeout": 1500}))
            .await;
        assert!(error.starts_with("browser is not available: "), "{url}: {error}");
        assert!(error.contains(said), "{url}: {error}");
        assert!(!error.contains("127.0.0.1"), "{url}: {error}");
    }
}
