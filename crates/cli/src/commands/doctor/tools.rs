//! What shell and code need, where they run.

use super::Check;
use crate::envfile;
use crate::failure::Failure;
use crate::place::Place;
use crate::up::binaries;
use bootstrap::settings::{Faults, Lookup, Validate, try_parse};
use std::path::Path;
use std::process::{Command, Stdio};
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

/// Isolation on this machine, or all that a Job needs.
pub(super) async fn checks(place: &Place) -> Vec<Check> {
    match place.get("TOOL_EXECUTOR") {
        Some("kubernetes") => cluster(place).await,
        _ => vec![sandbox(place)],
    }
}

/// What `agent-worker check kubernetes` tries.
async fn cluster(place: &Place) -> Vec<Check> {
    let lookup = Lookup::from_pairs(place.values().clone());
    let cluster = match try_parse::<Cluster>(["doctor".into()], &lookup) {
        Ok(cluster) => cluster,
        Err(refusal) => {
            let failure = Failure::new("the settings are wrong").because(format!("{refusal:?}"));
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
    let executor = place.get("TOOL_EXECUTOR").unwrap_or("local");
    if executor != "local" {
        let elsewhere = format!("shell and code do not run on this machine (TOOL_EXECUTOR={executor})");
        return Check::new("sandbox", "read the settings", Ok(elsewhere));
    }
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
