//! The local sandbox under the cases.

use crate::cases::{Backend, Traits, for_each_case, workspaces_on};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use testkit::S3;
use worker::sandbox::{AnySandbox, LocalSandbox, SandboxOptions, ToolExecutor};

/// Confines itself and becomes the tool.
const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-worker");

async fn local() -> Backend {
    let s3 = S3::start().await;
    let workspaces = workspaces_on(&s3);
    // Below a directory others may pass through: as root, programs run as another user.
    let open = std::fs::Permissions::from_mode(0o755);
    let scratch = tempfile::Builder::new().permissions(open).tempdir().unwrap();
    let options = SandboxOptions {
        tool_executor: ToolExecutor::Local,
        tool_scratch_dir: Some(scratch.path().join("s")),
    };
    let redactor = std::sync::Arc::default();
    let sandbox = LocalSandbox::start_with(PROGRAM.as_ref(), &options, workspaces.clone(), redactor).await;
    assert!(sandbox.is_available(), "{}", sandbox.describe());
    let tells_of_killed_children = sandbox.describe().contains("for memory");
    Backend {
        sandbox: AnySandbox::Local(sandbox),
        workspaces,
        store: format!("http://127.0.0.1:{}/", s3.port()),
        traits: Traits {
            shares_machine: true,
            limits_processes: true,
            limits_memory: true,
            tells_of_killed_children,
            has_loopback: true,
            stops_within: Duration::from_secs(2),
            api_server: None,
        },
        kept: vec![Box::new(scratch), Box::new(s3)],
    }
}

macro_rules! on_local {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                crate::cases::$module::$case(&local().await).await;
            }
        )*
    };
}

for_each_case!(on_local);

#[tokio::test]
async fn none_says_what_to_set() {
    use agent::ports::{Sandbox, Unheard};
    let mut backend = local().await;
    backend.sandbox = AnySandbox::None(worker::sandbox::NoneSandbox);
    let case = backend.case();
    let cancel = tokio_util::sync::CancellationToken::new();
    for (request, text) in [
        (case.shell("true"), "shell is not configured: set TOOL_EXECUTOR"),
        (
            case.code("python", ""),
            "code is not configured: set TOOL_EXECUTOR",
        ),
    ] {
        let error = backend
            .sandbox
            .run(&request, &Unheard, &cancel)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}
