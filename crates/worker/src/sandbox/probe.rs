//! The proof that isolation works here: a harmless program looks around and tells what it sees.

use super::code::launch;
use super::machine::Machine;
use agent::ports::{Program, SandboxError, SandboxRequest, Unheard};
use domain::{Ids, RunId, StepId, SystemIds, UserId};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Tells namespaces, network devices, names of variables, whether the kernel's settings could be written, and whether
/// Landlock and the filter of system calls hold.
const LOOK_AROUND: &str = r#"
for kind in user pid net ipc uts cgroup mnt; do echo "ns $(readlink /proc/self/ns/$kind)"; done
while read -r name rest; do case $name in *:*) echo "dev ${name%%:*}";; esac; done < /proc/net/dev
env | while IFS='=' read -r name rest; do echo "env $name"; done
[ -w /proc/sys/kernel/core_pattern ] && echo "open /proc/sys"
[ -e /root ] && echo "open /root"
[ -w /usr ] && echo "open /usr"
(: < /run/confine) 2>/dev/null && echo "open /run/confine"
while read -r name value; do [ "$name" = Seccomp: ] && [ "$value" != 2 ] && echo "open calls"; done < /proc/self/status
echo done
"#;
const NAMESPACES: [&str; 7] = ["user", "pid", "net", "ipc", "uts", "cgroup", "mnt"];
/// Ours, and those a shell makes itself.
const VARIABLES: [&str; 8] = ["PATH", "HOME", "LANG", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"];

/// What to do when bubblewrap cannot make namespaces.
const ADVICE: &str = "allow unprivileged user namespaces (sysctl user.max_user_namespaces, \
     kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns; in a container its seccomp \
     profile) or set TOOL_EXECUTOR";

/// Runs the program and checks what it saw.
///
/// # Errors
/// What is not isolated or not possible, and what to do.
pub(super) async fn prove(machine: &Machine) -> Result<(), String> {
    let id = SystemIds.uuid();
    let request = SandboxRequest {
        run_id: RunId(id),
        step_id: StepId(id),
        user_id: UserId::from("probe"),
        program: Program::Shell {
            command: LOOK_AROUND.to_owned(),
        },
        working_dir: "/workspace".to_owned(),
        timeout: TIMEOUT,
    };
    let step = machine
        .scratch
        .step()
        .map_err(|error| format!("cannot make a directory: {error}"))?;
    let launch = launch(&request.program, &machine.host.tools).map_err(|error| error.to_string())?;
    let output = machine
        .run(
            &request,
            &launch,
            &step,
            (&Unheard, &CancellationToken::new(), u64::MAX),
        )
        .await;
    let output = output.map_err(|error| explain(&error))?;
    let seen: Vec<&str> = output.stdout.lines().collect();
    if output.exit_code != Some(0) || seen.last() != Some(&"done") {
        return Err(format!("a trial run failed: {}", output.stderr.trim()));
    }
    judge(&seen)
}

fn explain(error: &SandboxError) -> String {
    let text = error.to_string();
    if text.contains("Can't find source path") || text.contains("Can't bind mount") {
        return format!("{text}; set TOOL_SCRATCH_DIR to a directory other users can pass through");
    }
    format!("{text}; {ADVICE}")
}

fn judge(seen: &[&str]) -> Result<(), String> {
    let own = NAMESPACES.map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default());
    let namespaces = seen
        .iter()
        .filter_map(|line| line.strip_prefix("ns "))
        .collect::<Vec<_>>();
    if namespaces.len() != NAMESPACES.len() {
        return Err(format!("a trial run could not see its namespaces; {ADVICE}"));
    }
    for line in seen {
        let leak = match line.split_once(' ') {
            Some(("ns", link)) => own.iter().any(|own| own.as_os_str() == link),
            Some(("dev", name)) => name != "lo",
            Some(("env", name)) => !VARIABLES.contains(&name),
            Some(("open", _)) => true,
            _ => false,
        };
        if leak {
            return Err(format!(
                "this machine does not isolate: a trial run saw \"{line}\"; {ADVICE}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(more: &'static str) -> Vec<&'static str> {
        let mut seen = vec![
            "ns user:[1]",
            "ns pid:[2]",
            "ns net:[3]",
            "ns ipc:[4]",
            "ns uts:[5]",
        ];
        seen.extend(["ns cgroup:[6]", "ns mnt:[7]", "dev lo", "env PATH", more, "done"]);
        seen
    }

    #[test]
    fn any_leak_is_refused_by_name() {
        assert_eq!(judge(&seen("env HOME")), Ok(()));
        for leak in [
            "dev eth0",
            "env AWS_SECRET_ACCESS_KEY",
            "open /proc/sys",
            "open /root",
            "open /run/confine",
            "open calls",
        ] {
            assert!(judge(&seen(leak)).unwrap_err().contains(leak));
        }
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let own: &'static str = Box::leak(format!("ns {}", own.display()).into_boxed_str());
        assert!(judge(&seen(own)).is_err());
        assert!(judge(&["done"]).is_err());
    }
}
