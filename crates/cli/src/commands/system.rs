//! The system as a whole: status, shell file, schema, tokens, completions.

use crate::args::{Cli, TokenArgs};
use crate::client::Api;
use crate::console::{Console, Style};
use crate::envfile;
use crate::failure::{Code, Failure};
use crate::place::{ENV_FILE, Place};
use crate::render;
use crate::token::{self, Claims};
use crate::up;
use clap::CommandFactory as _;
use clap_complete::Shell;
use domain::SystemClock;
use reqwest::StatusCode;
use serde_json::json;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

/// `agentctl env`
pub fn env(console: Console, home: &Path) -> Result<Code, Failure> {
    let file = home.join(ENV_FILE);
    let text = std::fs::read_to_string(&file).map_err(|error| no_home(home).why(&error))?;
    console.out(text.trim_end())?;
    Ok(Code::Ok)
}

fn no_home(home: &Path) -> Failure {
    Failure::new(format!("no system in {}", home.display()))
        .fix("start one with `agentctl up`, or name its home with --home")
        .code(Code::Unreachable)
}

/// `agentctl status` without a run. Exit code 0 only when everything answers.
pub async fn status(
    console: Console,
    home: &Path,
    place: &impl Fn() -> Result<Place, Failure>,
    as_json: bool,
) -> Result<Code, Failure> {
    let api = Api::at(&place()?)?;
    let recorded = up::overview(home);
    let probed = api.probe("/ready").await;
    let (is_ready, checks) = match &probed {
        Ok((status, body)) => (*status == StatusCode::OK, body["checks"].clone()),
        Err(_) => (false, json!({})),
    };
    let supervisor = recorded
        .as_ref()
        .and_then(|(_, state)| state.supervisor.clone())
        .filter(up::process::ProcessId::is_alive);
    let code = if is_ready { Code::Ok } else { Code::Unreachable };
    if as_json {
        let children = recorded.as_ref().map(|(_, state)| &state.children);
        let line = json!({"api": api.base(), "ready": is_ready, "checks": checks, "home": home,
            "supervisor": supervisor, "children": children, "ports": recorded.as_ref().map(|(_, state)| &state.ports)});
        console.out(&line.to_string())?;
        return Ok(code);
    }
    let word = if is_ready {
        console.paint(Style::Green, "ready")
    } else {
        console.paint(Style::Red, "not ready")
    };
    console.out(&format!("{}  {word}", api.base()))?;
    let mut rows: Vec<Vec<String>> = vec![];
    for (name, value) in checks.as_object().into_iter().flatten() {
        rows.push(vec![name.clone(), value.as_str().unwrap_or("?").to_owned()]);
    }
    if let Some((_, state)) = &recorded {
        for (name, process) in &state.children {
            let alive = if process.is_alive() { "runs" } else { "is gone" };
            rows.push(vec![name.clone(), format!("{alive}, process {}", process.pid)]);
        }
    }
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(&format!("  {line}")))?;
    if supervisor.is_none() && !is_ready {
        console.note("start it with `agentctl up`");
    }
    Ok(code)
}

/// `agentctl migrate`: the API's own migration with the settings found.
pub fn migrate(place: &Place) -> Result<Code, Failure> {
    let program = up::binaries::ours("agent-api", &envfile::process())?;
    let error = std::process::Command::new(&program)
        .arg("migrate")
        .envs(place.values())
        .exec();
    Err(Failure::new(format!("cannot start {}", program.display())).why(&error))
}

/// `agentctl token`
pub fn token(console: Console, place: &Place, args: &TokenArgs) -> Result<Code, Failure> {
    let claims = Claims {
        user: &args.user,
        admin: args.admin,
        expires_in: args.expires_in,
    };
    console.out(&token::sign(place.need("JWT_SECRET")?, claims, &SystemClock)?)?;
    Ok(Code::Ok)
}

/// `agentctl completions`
pub fn completions(console: Console, shell: Shell) -> Result<Code, Failure> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "agentctl", &mut script);
    console.raw(&script)?;
    Ok(Code::Ok)
}
