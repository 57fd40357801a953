//! The commands, one module each, and the way to them.

pub mod artifacts;
pub mod budget;
pub mod demo;
pub mod doctor;
pub mod effects;
pub mod files;
pub mod gc;
pub mod interrupts;
pub mod queue;
pub mod redis_facts;
pub mod runs;
pub mod system;
pub mod watch;

use crate::args::{Cli, Command, WorkspaceAction};
use crate::client::Api;
use crate::console::Console;
use crate::failure::{Code, Failure};
use crate::place::{DEFAULT_HOME, Place};
use crate::up;
use std::path::PathBuf;

/// Does what the command line says.
pub async fn dispatch(console: Console, cli: Cli) -> Result<Code, Failure> {
    let named = cli.home.or_else(home_of_environment);
    let place = || Place::find(named.as_deref());
    let home = || named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_HOME));
    match cli.command {
        Command::Up(args) => up::up(console, &home(), &args).await,
        Command::Down => up::down(console, &running_home(named.clone())).await,
        Command::Env => system::env(console, &running_home(named.clone())),
        Command::Status(args) => match &args.run {
            Some(run) => runs::status(console, &Api::at(&place()?)?, run, args.json).await,
            None => system::status(console, &running_home(named.clone()), &place, args.json).await,
        },
        Command::Demo => demo::demo(console, running_home(named.clone())).await,
        Command::Run(args) => watch::run(console, &Api::at(&place()?)?, &args).await,
        Command::Logs(args) => watch::logs(console, &Api::at(&place()?)?, &args).await,
        Command::Runs(args) => runs::list(console, &Api::at(&place()?)?, &args).await,
        Command::Stop(args) => runs::act(console, &Api::at(&place()?)?, "stop", &args.run).await,
        Command::Pause(args) => runs::act(console, &Api::at(&place()?)?, "pause", &args.run).await,
        Command::Resume(args) => runs::resume(console, &Api::at(&place()?)?, &args).await,
        Command::Retry(args) => runs::retry(console, &Api::at(&place()?)?, &args).await,
        Command::Files(args) => files::files(console, &place()?, &args).await,
        Command::Workspace(args) => {
            let WorkspaceAction::Gc(args) = args.action;
            gc::gc(console, &place()?, &args).await
        }
        Command::Effects(args) => effects::effects(console, &Api::at(&place()?)?, &args).await,
        Command::Budget(args) => budget::budget(console, &Api::at(&place()?)?, &args).await,
        Command::Interrupts(args) => interrupts::list(console, &Api::at(&place()?)?, &args).await,
        Command::Approve(args) => interrupts::approve(console, &Api::at(&place()?)?, &args).await,
        Command::Reject(args) => interrupts::reject(console, &Api::at(&place()?)?, &args).await,
        Command::Answer(args) => interrupts::answer(console, &Api::at(&place()?)?, &args).await,
        Command::Queue(args) => queue::queue(console, &place()?, &args).await,
        Command::Doctor { json } => doctor::doctor(console, &place()?, json).await,
        Command::Migrate => system::migrate(&place()?),
        Command::Token(args) => system::token(console, &place()?, &args),
        Command::Completions { shell } => system::completions(console, shell),
        Command::Guard(args) => Err(up::guard::exec(&args)),
    }
}

/// `AGENT_HOME`; an empty value counts as absent.
fn home_of_environment() -> Option<PathBuf> {
    std::env::var_os("AGENT_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The home of commands that look after a running system: the named one, else the nearest upwards.
fn running_home(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| crate::place::nearest_home().unwrap_or_else(|| PathBuf::from(DEFAULT_HOME)))
}
