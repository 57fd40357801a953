//! What the tools of a run are set to, and what shell and code need where they run.

use super::Check;
use crate::envfile;
use crate::failure::Failure;
use crate::place::Place;
use crate::up::binaries;
use bootstrap::settings::{Faults, Lookup, Validate, try_parse};
use std::path::Path;
use std::process::{Command, Stdio};
use worker::check::{ToolLine, ToolOptions};
use worker::kubernetes::KubernetesOptions;
use worker::kubernetes::preflight::{Line, lines};
use worker::workspace::S3Options;

#[derive(Debug, clap::Parser)]
struct Cluster {
    #[command(flatten)]
    kubernetes: KubernetesOptions,
    #[command(flatten)]
    s3: S3Options,
}

impl Validate for Cluster {
    fn faults(&self) -> Faults {
        self.kubernetes.faults()
    }
}

#[derive(Debug, clap::Parser)]
struct Outer {
    #[command(flatten)]
    tools: ToolOptions,
}

impl Validate for Outer {
    /// Told line by line.
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

/// The executor with isolation on this machine or all that a Job needs, then the tools that reach other systems.
pub(super) async fn checks(place: &Place) -> Vec<Check> {
    let executor = place.get("TOOL_EXECUTOR").unwrap_or("local");
    let mut checks = vec![Check::new(
        "executor",
        "read TOOL_EXECUTOR",
        where_programs_run(executor),
    )];
    match executor {
        "kubernetes" => checks.extend(cluster(place).await),
        "local" => checks.push(sandbox(place)),
        _ => {}
    }
    checks.extend(outer(place, executor == "local").await);
    checks
}

fn where_programs_run(executor: &str) -> Result<String, Failure> {
    let said = match executor {
        "local" => "local: shell and code run in namespaces of this machine",
        "kubernetes" => "kubernetes: shell and code run as Jobs",
        "none" => "none: shell and code are not configured",
        other => {
            return Err(Failure::new(format!("TOOL_EXECUTOR: no such executor: {other}"))
                .fix("set TOOL_EXECUTOR=local, kubernetes or none; workers do not start with this one"));
        }
    };
    Ok(said.to_owned())
}

/// Search, connectors, browser and MCP servers.
async fn outer(place: &Place, programs: bool) -> Vec<Check> {
    let lookup = Lookup::from_pairs(place.values().clone());
    let tools = match try_parse::<Outer>(["doctor".into()], &lookup) {
        Ok(outer) => outer.tools,
        Err(refusal) => {
            let failure = Failure::new("the settings are wrong")
                .because(super::why(&refusal))
                .fix("correct the setting that is named; workers do not start with it");
            return vec![Check::new("tools", "read the settings", Err(failure))];
        }
    };
    tools.overview(programs).await.into_iter().map(of_tool).collect()
}

fn of_tool(line: ToolLine) -> Check {
    let answer = line
        .result
        .map_err(|fault| Failure::new(fault.what).fix(fault.fix));
    Check::new(line.name, line.tried, answer)
}

/// What `agent-worker check kubernetes` tries.
async fn cluster(place: &Place) -> Vec<Check> {
    let lookup = Lookup::from_pairs(place.values().clone());
    let cluster = match try_parse::<Cluster>(["doctor".into()], &lookup) {
        Ok(cluster) => cluster,
        Err(refusal) => {
            let failure = Failure::new("the settings are wrong").because(super::why(&refusal));
            return vec![Check::new("kubernetes", "read the settings", Err(failure))];
        }
    };
    let told = lines(&cluster.kubernetes, &cluster.s3).await;
    let mut checks: Vec<Check> = told.into_iter().map(of_line).collect();
    let unseen = "the limit on processes is the kubelet's (podPidsLimit) and is not to be seen from here";
    checks.push(Check::new(
        "kubernetes",
        "processes per pod",
        Ok(unseen.to_owned()),
    ));
    checks
}

fn of_line(line: Line) -> Check {
    let answer = match line.result {
        Ok(said) => Ok(format!("{}: {said}", line.name)),
        Err(fault) => Err(Failure::new(format!("{}: {fault}", line.name))
            .fix("see `agent-worker check kubernetes` and docs/OPERATIONS.md")),
    };
    Check::new("kubernetes", line.name, answer)
}

/// Asks the worker's program what it can enforce here, whichever worker there is.
fn sandbox(place: &Place) -> Check {
    let tried = "agent-worker check sandbox";
    let program = binaries::ours("agent-worker", &envfile::process());
    Check::new(
        "sandbox",
        tried,
        program.and_then(|program| isolation(&program, place)),
    )
}

fn isolation(program: &Path, place: &Place) -> Result<String, Failure> {
    let mut command = Command::new(program);
    command.args(["check", "sandbox"]).env("TOOL_EXECUTOR", "local");
    // Settings that must be there; nothing is connected to.
    for (name, default) in [
        ("DATABASE_URL", "postgresql://127.0.0.1/"),
        ("REDIS_URL", "redis://127.0.0.1/"),
    ] {
        command.env(name, place.get(name).unwrap_or(default));
    }
    if let Some(dir) = place.get("TOOL_SCRATCH_DIR") {
        command.env("TOOL_SCRATCH_DIR", dir);
    }
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("sandbox: "));
    match line.map(|line| (line.strip_prefix("ok ("), line)) {
        Some((Some(held), _)) => Ok(held.strip_suffix(')').unwrap_or(held).to_owned()),
        told => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let why = told.map_or_else(|| complaint.trim().to_owned(), |(_, line)| line.to_owned());
            Err(Failure::new("the host refuses to isolate processes; shell and code fail")
                .because(why)
                .fix("Debian/Ubuntu: apt-get install bubblewrap, and allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0) and Landlock (lsm= of the kernel); else set TOOL_EXECUTOR=none or kubernetes"))
        }
    }
}
