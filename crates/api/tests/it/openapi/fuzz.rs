//! The running program against its own description, by schemathesis: briefly here, longer by `scripts/ci/contract.sh`, which
//! also installs it.

use crate::harness::{Api, SECRET};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::jwt;

/// Examples per operation, unless `CONTRACT_EXAMPLES` says otherwise.
const EXAMPLES: &str = "2";

/// The program that `SCHEMATHESIS` names, or the one installed beside what was built.
fn schemathesis() -> PathBuf {
    if let Ok(named) = std::env::var("SCHEMATHESIS") {
        return named.into();
    }
    let built = std::env::current_exe().expect("the test has a path");
    let target = built.ancestors().nth(3).expect("target/PROFILE/deps/it");
    let entries = std::fs::read_dir(target).expect("the target directory").flatten();
    let installed = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("schemathesis-"))
        })
        .map(|path| path.join("bin/schemathesis"))
        .find(|path| path.is_file());
    installed.expect("schemathesis is not installed: scripts/ci/contract.sh --install")
}

#[tokio::test]
async fn the_program_keeps_to_its_description_whatever_is_sent() {
    let api = Api::start_with(&[("API_SHUTDOWN_GRACE_SECONDS", "1")]).await;
    let finished = api.created_and_started("u").await;
    let worker = api.worker().await;
    let epoch = worker.execute(finished).await;
    worker.complete(finished, epoch).await;
    let examples = std::env::var("CONTRACT_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let token = jwt(SECRET, "u", json!({"role": "admin"}));
    let program = schemathesis();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/ci/schemathesis.toml");
    let url = format!("{}/openapi.json", api.base);
    let mut command = Command::new(program);
    command.arg("--config-file").arg(config).args(["run", &url]);
    command.args([
        "--max-examples",
        &examples,
        "--header",
        &format!("Authorization: Bearer {token}"),
    ]);
    command.current_dir(api.process.dir()).stdin(Stdio::null());
    let status = tokio::task::spawn_blocking(move || command.status())
        .await
        .unwrap();
    assert!(
        status.expect("schemathesis can be started").success(),
        "see its report above"
    );
    assert_eq!(api.get("u", "/healthz").send().await.unwrap().status(), 200);
}
