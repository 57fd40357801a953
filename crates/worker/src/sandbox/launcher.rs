//! Programs of tools that last as long as the drive of a run: a browser, the server of an MCP tool.
//!
//! Invariants:
//! - They run in the same namespaces and behind the same second wall as the programs of the model, with an empty workspace.
//! - A browser has no network of its own: its relay leads to a socket here, behind which the guarded proxy answers.
//! - One task holds the tree; when the program ends, is no longer wanted or uses too much, all of it is killed and its directory
//!   removed. Killed itself, this worker takes the tree with it.

use super::bubblewrap::{Invocation, Lasting, lasting};
use super::cgroup::Group;
use super::limits::Limits;
use super::machine::Machine;
use super::process::{Pipes, Tree};
use super::scratch::StepDir;
use super::watch::Watch;
use futures::future::BoxFuture;
use outbound::ProxyService;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tools::launch::{Launch, LaunchFault, Launched, Launcher, Network, PROXY_HERE, SCRATCH_HERE};

/// Where a browser finds its proxy, on its own loopback.
const PROXY_PORT: u16 = 3128;
/// Connections to the proxy at a time.
const CONNECTIONS: usize = 256;
/// What an empty workspace may grow to.
const WORKSPACE_BYTES: u64 = 1024 * 1024 * 1024;

/// Starts programs on this machine, or says why it cannot.
#[derive(Debug)]
pub(super) struct LocalLauncher(pub Arc<Result<Machine, String>>);

impl Launcher for LocalLauncher {
    fn launch(&self, what: Launch) -> BoxFuture<'_, Result<Launched, LaunchFault>> {
        Box::pin(async move {
            let machine = self.0.as_ref().as_ref();
            let machine = machine.map_err(|reason| LaunchFault(reason.clone()))?;
            let started = start(machine, what).await;
            started.map_err(|error| LaunchFault(format!("the sandbox cannot start it: {error}")))
        })
    }
}

async fn start(machine: &Machine, what: Launch) -> io::Result<Launched> {
    let step = machine.scratch.step()?;
    let limits = Limits::lasting(what.size);
    let (proxy, relay) = match &what.network {
        Network::Proxy(service) => (Some(serve(&step, service.clone())?), Some(PROXY_PORT)),
        Network::None | Network::Host => (None, None),
    };
    let here = format!("127.0.0.1:{PROXY_PORT}");
    let argument = |text: &String| text.replace(PROXY_HERE, &here).replace(SCRATCH_HERE, "/tmp");
    let argv: Vec<String> = what.argv.iter().map(argument).collect();
    let program = Lasting {
        argv: &argv,
        env: &what.env,
        readable: &what.readable,
        host_network: matches!(what.network, Network::Host),
        relay,
    };
    let (tree, pipes, group) = spawn(machine, &step, &limits, &program).await?;
    let ended = CancellationToken::new();
    let watch = Watch {
        memory_bytes: limits.memory_bytes,
        workspace: step.workspace(),
        workspace_bytes: WORKSPACE_BYTES,
    };
    tokio::spawn(hold((tree, group, step), watch, ended.clone(), proxy));
    let (stdin, stdout, stderr) = pipes;
    Ok(Launched {
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        alive: Box::new(ended.drop_guard()),
    })
}

async fn spawn(
    machine: &Machine,
    step: &StepDir,
    limits: &Limits,
    program: &Lasting<'_>,
) -> io::Result<(Tree, Pipes, Group)> {
    let group = machine.cgroups.group(&step.name(), limits)?;
    let file = step.options();
    let bwrap: Invocation = lasting(&machine.host, step, limits, program, &file);
    step.write_options(&bwrap.options)?;
    let started = Tree::start_lasting(&machine.spawner, &bwrap, &group, machine.host.drop_to).await;
    // It may hold secrets; by now it has been read.
    std::fs::remove_file(&file)?;
    let (tree, pipes) = started?;
    Ok((tree, pipes, group))
}

/// Waits for the first reason to end it, and ends all of it.
async fn hold(
    (mut tree, group, step): (Tree, Group, StepDir),
    watch: Watch,
    leave: CancellationToken,
    proxy: Option<AbortOnDropHandle<()>>,
) {
    let init = tree.init().cloned();
    tokio::select! {
        () = leave.cancelled() => {}
        ended = tree.wait() => tracing::debug!(?ended, "a program of a tool ended"),
        reason = watch.exceeded(init.as_ref()) => tracing::warn!(reason, "a program of a tool is ended"),
    }
    if let Err(error) = tree.end().await {
        tracing::warn!(%error, "a program of a tool was not ended");
    }
    group.close().await;
    drop((proxy, step));
}

/// Listens for the relay inside.
fn serve(step: &StepDir, service: ProxyService) -> io::Result<AbortOnDropHandle<()>> {
    let state = step.state();
    // By way of the open directory: the whole path may be longer than a socket's can be.
    let dir = File::open(&state)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/proxy", dir.as_raw_fd()))?;
    step.give(&state.join("proxy"))?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = tokio::spawn(async move {
        while let Ok(permit) = room.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let service = service.clone();
            tokio::spawn(async move {
                service.serve(stream).await;
                drop(permit);
            });
        }
    });
    Ok(AbortOnDropHandle::new(accepting))
}
