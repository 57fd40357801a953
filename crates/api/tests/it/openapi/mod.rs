//! The description of the public surface: stored, served, shown, and kept compatible.

mod compat;
mod fuzz;

use crate::harness::{Api, client};
use compat::breaking;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "1.0.0";
const REFRESH: &str = "UPDATE_OPENAPI=1 cargo test -p api --test it openapi";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn stored() -> Value {
    let text = std::fs::read_to_string(root().join("docs/openapi.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// As of the last commit, or of `OPENAPI_BASE`; the stored one where there is no git.
fn committed() -> Value {
    let base = std::env::var("OPENAPI_BASE").unwrap_or_else(|_| "HEAD".to_owned());
    let shown = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["show", &format!("{base}:docs/openapi.json")])
        .output();
    let shown = shown.ok().filter(|output| output.status.success());
    shown.map_or_else(stored, |output| {
        serde_json::from_slice(&output.stdout).expect("JSON in git")
    })
}

#[test]
fn the_stored_description_is_the_one_of_the_code_and_breaks_nobody() {
    let now = api::openapi::document(VERSION);
    let broken = breaking(&committed(), &now);
    assert!(
        broken.is_empty(),
        "the description breaks clients; if that is meant, commit docs/openapi.json of {REFRESH} first:\n{}",
        broken.join("\n")
    );
}

#[test]
fn the_stored_description_is_up_to_date() {
    let now = api::openapi::document(VERSION);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        let text = serde_json::to_string_pretty(&now).unwrap() + "\n";
        std::fs::write(root().join("docs/openapi.json"), text).unwrap();
    }
    assert!(
        stored() == now,
        "docs/openapi.json is not what the code says; refresh it: {REFRESH}"
    );
}

/// Everything a page of ours may load: paths in it that lead elsewhere.
fn foreign(text: &str) -> Vec<&str> {
    let schemes = [
        "http://",
        "https://",
        "//cdn",
        "src=\"//",
        "href=\"//",
        "@import",
        "url(//",
        "url(http",
    ];
    schemes
        .into_iter()
        .filter(|scheme| text.contains(scheme))
        .collect()
}

#[tokio::test]
async fn the_document_and_its_pages_are_served_without_a_token_and_load_nothing_from_elsewhere() {
    let api = Api::start_with(&[("VERSION", "7.8.9")]).await;
    let get = async |path: &str| {
        let answer = client().get(format!("{}{path}", api.base)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let headers = answer.headers().clone();
        (headers, answer.text().await.unwrap())
    };
    let (headers, text) = get("/openapi.json").await;
    assert_eq!(headers["content-type"], "application/json");
    let served: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(served, api::openapi::document("7.8.9"));
    for page in ["/docs", "/redoc"] {
        let (headers, html) = get(page).await;
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("http"), "{policy}");
        assert!(html.contains("<title>Swiss Agent API</title>"), "{html}");
        assert_eq!(foreign(&html), [""; 0], "{page}");
        let loaded: Vec<&str> = html.split('"').filter(|part| part.starts_with("docs/")).collect();
        assert!(loaded.len() >= 2, "{html}");
        for asset in loaded {
            let (headers, content) = get(&format!("/{asset}")).await;
            let kind = headers["content-type"].to_str().unwrap();
            let is_script = Path::new(asset).extension().is_some_and(|ending| ending == "js");
            assert_eq!(kind.contains("javascript"), is_script, "{asset}");
            assert!(!content.is_empty());
            // The bundle names hosts in texts and namespaces; the policy keeps it from asking them.
            if !asset.contains("bundle") {
                let own = content.replace("http://www.w3.org/2000/svg", "");
                assert_eq!(foreign(&own), [""; 0], "{asset}");
            }
        }
    }
    let missing = client()
        .get(format!("{}/docs/nothing.js", api.base))
        .send()
        .await
        .unwrap();
    assert_eq!(missing.status(), 404);
}
