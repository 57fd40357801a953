//! `contract check` as a command: needs no store, tells every difference.

use crate::service::SOON;
use std::path::{Path, PathBuf};
use testkit::{Process, Program};

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name)
}

async fn checked(openapi: &Path, markdown: &Path) -> (i32, Process) {
    let program = Program::new(env!("CARGO_BIN_EXE_openagents-runtime-service"));
    let mut process = program
        .arg("contract")
        .arg("check")
        .arg("--openapi")
        .arg(openapi.to_str().unwrap())
        .arg("--markdown")
        .arg(markdown.to_str().unwrap())
        .start();
    let code = process.wait(SOON).await.code().unwrap();
    (code, process)
}

#[tokio::test]
async fn the_stored_documents_pass_without_any_store_or_setting() {
    let (code, process) = checked(&document("openapi.yaml"), &document("RUNTIME_CONTRACT.md")).await;
    assert_eq!(process.stdout(), "runtime contract check passed\n");
    assert_eq!((code, process.stderr().as_str()), (0, ""));
}

#[tokio::test]
async fn every_kind_of_change_of_the_document_makes_it_fail() {
    let good = std::fs::read_to_string(document("openapi.yaml")).unwrap();
    let (_, holder) = checked(&document("openapi.yaml"), &document("RUNTIME_CONTRACT.md")).await;
    let changed = holder.dir().join("changed.yaml");
    let drift = "/internal/v1/projectors/drift";
    for (from, to, expected) in [
        (
            drift,
            "/internal/v1/projectors/drifts",
            format!("missing route operation in OpenAPI: GET {drift}"),
        ),
        (
            drift,
            "/internal/v1/projectors/drifts",
            format!("OpenAPI operation not implemented in router: GET {drift}s"),
        ),
        (
            "name: topic",
            "name: subject",
            format!("GET {drift}: parameter topic (query, required)"),
        ),
        ("in: query", "in: header", "(header, ".to_owned()),
        (
            "'409':",
            "'418':",
            "status 409 is served and missing in OpenAPI".to_owned(),
        ),
        (
            "'409':",
            "'418':",
            "status 418 is in OpenAPI and not served".to_owned(),
        ),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{from}");
        std::fs::write(&changed, text).unwrap();
        let (code, process) = checked(&changed, &document("RUNTIME_CONTRACT.md")).await;
        let out = process.stdout();
        assert_eq!(code, 1, "{out}");
        assert!(
            out.starts_with("runtime contract check failed:\n  - [openapi] "),
            "{out}"
        );
        assert!(out.contains(&expected), "{expected}: {out}");
    }
}

#[tokio::test]
async fn a_missing_heading_anchor_or_file_makes_it_fail() {
    let good = std::fs::read_to_string(document("RUNTIME_CONTRACT.md")).unwrap();
    let (_, holder) = checked(&document("openapi.yaml"), &document("RUNTIME_CONTRACT.md")).await;
    let changed = holder.dir().join("changed.md");
    for (from, expected) in [
        (
            "### `POST /internal/v1/runs`",
            "missing heading: POST /internal/v1/runs\n",
        ),
        ("Last-Event-ID", "missing anchor: Last-Event-ID\n"),
    ] {
        std::fs::write(&changed, good.replace(from, "")).unwrap();
        let (code, process) = checked(&document("openapi.yaml"), &changed).await;
        let out = process.stdout();
        assert_eq!(
            (code, out),
            (
                1,
                format!("runtime contract check failed:\n  - [markdown] {expected}")
            )
        );
    }
    let (code, process) = checked(&document("openapi.yaml"), Path::new("nowhere.md")).await;
    assert_eq!(code, 1);
    assert!(
        process
            .stdout()
            .contains("  - [markdown] cannot read nowhere.md: "),
        "{}",
        process.stdout()
    );
}
