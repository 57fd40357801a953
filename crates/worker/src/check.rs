//! `agent-worker check`: one line per dependency, told with what was tried and what to do.

use crate::config::{Options, Target};
use crate::kubernetes::preflight;
use crate::log::with_sources;
use crate::sandbox::{LocalSandbox, ToolExecutor};
use crate::workspace::Workspaces;
use domain::SystemClock;
use queue::Queue;
use runs::Db;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tools::Tools;
pub use tools::{ToolLine, ToolOptions};

const ALL: [Target; 5] = [
    Target::Postgres,
    Target::Redis,
    Target::S3,
    Target::Model,
    Target::Tools,
];
/// Longest time of one check.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs the checks; `true`: all fine.
pub async fn run(options: &Options, what: &[Target]) -> bool {
    let mut all = ALL.to_vec();
    if options.sandbox.tool_executor == ToolExecutor::Kubernetes {
        all.push(Target::Kubernetes);
    }
    let what = if what.is_empty() { &all } else { what };
    let mut fine = true;
    for target in what {
        if *target == Target::Kubernetes {
            for line in preflight::lines(&options.kubernetes, &options.s3).await {
                fine &= line.result.is_ok();
                say(&format!("kubernetes {}", line.name), line.result);
            }
            continue;
        }
        if *target == Target::Tools {
            fine &= tools(options).await;
            continue;
        }
        let result = tokio::time::timeout(LIMIT, one(options, *target)).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())));
        fine &= result.is_ok();
        let name = format!("{target:?}").to_lowercase();
        say(&name, result);
    }
    fine
}

fn say(name: &str, result: Result<String, String>) {
    let line = match result {
        Ok(said) => format!("{name}: ok ({said})"),
        Err(fault) => format!("{name}: FAILED: {fault}"),
    };
    // Nothing is left to do when stdout is gone.
    writeln!(std::io::stdout(), "{line}").unwrap_or_default();
}

async fn one(options: &Options, target: Target) -> Result<String, String> {
    match target {
        Target::Postgres => {
            let db = Db::connect(&options.db).map_err(|error| with_sources(&error))?;
            db.ping().await.map_err(|error| with_sources(&error))?;
            match db.schema_is_current().await {
                Ok(true) => Ok("schema is current".to_owned()),
                Ok(false) => Err("the schema is older than this program: run `agent-api migrate`".to_owned()),
                Err(error) => Err(with_sources(&error)),
            }
        }
        Target::Redis => {
            let queue = Queue::connect(&options.redis)
                .await
                .map_err(|error| with_sources(&error))?;
            until_connected(&queue).await.map(|()| "PING answered".to_owned())
        }
        Target::S3 => {
            let workspaces = Workspaces::from_options(&options.s3);
            if !workspaces.is_configured() {
                return Err("not configured: set S3_ACCESS_KEY and S3_SECRET_KEY".to_owned());
            }
            workspaces.check().await.map_err(|error| with_sources(&error))?;
            Ok(format!("bucket {} answers", options.s3.store.s3_workspace_bucket))
        }
        Target::Model => {
            let model = options
                .model
                .connect(Arc::new(SystemClock))
                .map_err(|error| with_sources(&error))?;
            model.check().await?;
            Ok(model.describe())
        }
        // Many lines: see `run`.
        Target::Kubernetes | Target::Tools => Ok("told line by line".to_owned()),
        Target::Sandbox => sandbox(options).await,
    }
}

/// One line per tool that is set up; none where there is none.
async fn tools(options: &Options) -> bool {
    let lines = match Tools::from_options(&options.tools) {
        Ok(tools) => tools.check().await,
        Err(error) => vec![("tools".to_owned(), Err(with_sources(&error)))],
    };
    let fine = lines.iter().all(|(_, result)| result.is_ok());
    for (name, result) in lines {
        say(&name, result);
    }
    fine
}

/// Runs a harmless program isolated, and tells what holds it.
async fn sandbox(options: &Options) -> Result<String, String> {
    if options.sandbox.tool_executor != ToolExecutor::Local {
        return Ok("programs do not run on this machine: TOOL_EXECUTOR is not local".to_owned());
    }
    let workspaces = Workspaces::from_options(&options.s3);
    let sandbox = LocalSandbox::start(&options.sandbox, workspaces, Arc::default()).await;
    if sandbox.is_available() {
        Ok(sandbox.describe())
    } else {
        Err(sandbox.describe())
    }
}

async fn until_connected(queue: &Queue) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..8 {
        match queue.ping().await {
            Ok(()) => return Ok(()),
            Err(error) => last = with_sources(&error),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Err(last)
}
