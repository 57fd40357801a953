//! `agentctl up`, `down`: the whole system on one machine.

pub mod binaries;
pub mod guard;
pub mod home;
pub mod keeper;
pub mod plan;
pub mod ports;
pub mod postgres;
pub mod probe;
pub mod process;
pub mod redis;
pub mod signals;
pub mod store;
pub mod summary;
pub mod system;

use crate::args::UpArgs;
use crate::console::Console;
use crate::envfile;
use crate::failure::{Code, Failure};
use home::{Home, State};
use nix::sys::signal::Signal;
use plan::Plan;
use process::ProcessId;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use system::System;
use tokio::time::Instant;

/// How long a background start or another start may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(150);
/// How long `down` waits before it asks a second time, and then before it kills.
const DOWN_PATIENCE: Duration = Duration::from_mins(1);
const DOWN_LAST: Duration = Duration::from_secs(15);
/// How long children left over by a killed supervisor may take to end.
const LEFTOVER_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// `agentctl up`. Must run on a current-thread runtime, on the main thread (see [`guard`]).
pub async fn up(console: Console, path: &Path, args: &UpArgs) -> Result<Code, Failure> {
    if args.down {
        return down(console, path).await;
    }
    if args.detached {
        nix::unistd::setsid().map_err(|errno| Failure::new("cannot go to the background").why(&errno))?;
    }
    let home = Home::create(path)?;
    let Some(lock) = home.lock()? else {
        return already_running(console, &home, args).await;
    };
    if args.detach && !args.detached {
        drop(lock);
        return detach(console, &home, args).await;
    }
    let mut state = home.state()?;
    clear_leftovers(console, &state).await?;
    let secrets = home.secrets()?;
    let env = envfile::process();
    let (plan, held) = Plan::make(&home, &env, args, &secrets, &mut state)?;
    let outcome = System::new(console, home, state, plan)?.run(&secrets).await;
    drop((held, lock));
    outcome
}

/// Another supervisor holds the home: waits until it is ready, says so, gives its addresses.
async fn already_running(console: Console, home: &Home, args: &UpArgs) -> Result<Code, Failure> {
    let state = wait_ready(home, None).await?;
    console.note(&format!("already running in {}", home.path().display()));
    if state.workers != args.workers && args.workers != 1 {
        console.note(&format!(
            "it has {} worker(s); for {} stop it first: agentctl down",
            state.workers, args.workers
        ));
    }
    if let Some(port) = args.api_port.filter(|port| state.ports.get("api") != Some(port)) {
        console.note(&format!(
            "its API is not on port {port}; to move it stop it first: agentctl down"
        ));
    }
    summary::print(console, home, &state)?;
    Ok(Code::Ok)
}

/// Starts this program again in the background and waits until it is ready.
async fn detach(console: Console, home: &Home, args: &UpArgs) -> Result<Code, Failure> {
    let log = home.log("agentctl")?;
    let log_start = log.metadata()?.len();
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("--home").arg(home.path()).args(["up", "--detached"]);
    command.args(["--workers", &args.workers.to_string()]);
    if let Some(port) = args.api_port {
        command.args(["--api-port", &port.to_string()]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| Failure::new("cannot start in the background").why(&error))?;
    match wait_ready(home, Some(child)).await {
        Ok(state) => {
            summary::print(console, home, &state)?;
            console.note(&format!(
                "\nruns in the background; stop it with: {} down",
                summary::command(home)
            ));
            Ok(Code::Ok)
        }
        Err(failure) => {
            let text = std::fs::read(home.log_path("agentctl")).unwrap_or_default();
            let new = text.get(log_start as usize..).unwrap_or(&text);
            console.note(String::from_utf8_lossy(new).trim_end());
            Err(failure)
        }
    }
}

/// Waits until the supervisor of a home says that everything answers.
async fn wait_ready(home: &Home, mut child: Option<std::process::Child>) -> Result<State, Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let state = home.state()?;
        let supervisor = state.supervisor.as_ref();
        let is_ours = child
            .as_ref()
            .is_none_or(|child| supervisor.is_some_and(|it| it.pid == child.id() as i32));
        if state.ready && is_ours && supervisor.is_some_and(ProcessId::is_alive) {
            return Ok(state);
        }
        let ended = child
            .as_mut()
            .map(std::process::Child::try_wait)
            .transpose()?
            .flatten();
        if let Some(status) = ended {
            if status.success() {
                // It found another supervisor that was a moment quicker.
                child = None;
                continue;
            }
            return Err(Failure::new("the background process ended before it was ready")
                .because(status.to_string())
                .fix(format!("see {}", home.log_path("agentctl").display())));
        }
        if child.is_none() && home.lock()?.is_some() {
            return Err(Failure::new("the other start has just ended").fix("start again"));
        }
        if Instant::now() > deadline {
            return Err(Failure::new("the system does not become ready")
                .fix(format!("see {}", home.file("logs").display()))
                .code(Code::Unreachable));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `agentctl down`.
pub async fn down(console: Console, path: &Path) -> Result<Code, Failure> {
    let Some(home) = Home::open(path) else {
        console.note(&format!("nothing runs in {}", path.display()));
        return Ok(Code::Ok);
    };
    let state = home.state()?;
    let running = state.supervisor.clone().filter(ProcessId::is_alive);
    let Some(supervisor) = running else {
        clear_leftovers(console, &state).await?;
        console.note(&format!("nothing runs in {}", home.path().display()));
        return Ok(Code::Ok);
    };
    let told = |errno: nix::errno::Errno| Failure::new("cannot stop the supervisor").why(&errno);
    supervisor.signal(Signal::SIGTERM).map_err(told)?;
    if !supervisor.ended_within(DOWN_PATIENCE).await {
        supervisor.signal(Signal::SIGTERM).map_err(told)?;
        if !supervisor.ended_within(DOWN_LAST).await {
            supervisor.signal(Signal::SIGKILL).map_err(told)?;
        }
    }
    clear_leftovers(console, &home.state()?).await?;
    console.note(&format!("stopped; the data stays in {}", home.path().display()));
    Ok(Code::Ok)
}

/// Ends children whose supervisor was killed, programs before servers.
async fn clear_leftovers(console: Console, state: &State) -> Result<(), Failure> {
    let mut left: Vec<(&String, &ProcessId)> =
        state.children.iter().filter(|(_, id)| id.is_alive()).collect();
    left.sort_by_key(|(name, _)| matches!(name.as_str(), "redis" | "postgres"));
    for (name, process) in left {
        console.note(&format!("{name} is left over from before; ending it"));
        let signal = match name.as_str() {
            "postgres" => Signal::SIGINT,
            "redis" => Signal::SIGTERM,
            _ => Signal::SIGKILL,
        };
        let told = |errno: nix::errno::Errno| Failure::new(format!("cannot end {name}")).why(&errno);
        process.signal(signal).map_err(told)?;
        if !process.ended_within(LEFTOVER_GRACE).await {
            process.signal(Signal::SIGKILL).map_err(told)?;
            process.ended_within(LEFTOVER_GRACE).await;
        }
    }
    Ok(())
}

/// `agentctl status` without a run: what is recorded and what is alive.
pub fn overview(path: &Path) -> Option<(Home, State)> {
    let home = Home::open(path)?;
    let state = home.state().ok()?;
    Some((home, state))
}
