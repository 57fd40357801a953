//! Load and faults for a live runtime authority: `PASS <name>` or `FAIL <name>: <text>` per scenario, exit 1 on any
//! failure. Started by `scripts/runtime-load.sh`; what each scenario asks is in `docs/LOAD_TESTING.md`.
//!
//! Scenarios that break something (`redis_down`, `kill9`) break a service of their own on the same database, never the
//! one that serves others.

mod client;
mod faults;
mod own;
mod steady;

use client::Client;
use std::process::ExitCode;

/// Why a scenario does not pass.
type Verdict = Result<(), String>;

const SCENARIOS: [&str; 6] = [
    "append_storm",
    "long_run",
    "heartbeats",
    "redis_down",
    "rebuild",
    "kill9",
];
const USAGE: &str = "usage: runtime-load [--scenario NAME]
scenarios: append_storm long_run heartbeats redis_down rebuild kill9";

#[tokio::main]
async fn main() -> ExitCode {
    let mut chosen: Vec<String> = SCENARIOS.map(str::to_owned).to_vec();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let ("--scenario", Some(name)) = (arg.as_str(), args.next()) else {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        };
        chosen = vec![name];
    }
    let mut code = ExitCode::SUCCESS;
    for name in chosen {
        match run(&name).await {
            Ok(()) => println!("PASS {name}"),
            Err(text) => {
                println!("FAIL {name}: {text}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

async fn run(name: &str) -> Verdict {
    match name {
        "append_storm" => steady::append_storm(&Client::live()?).await,
        "long_run" => steady::long_run(&Client::live()?).await,
        "heartbeats" => steady::heartbeats(&Client::live()?).await,
        "rebuild" => faults::rebuild(&Client::live()?).await,
        "redis_down" => faults::redis_down().await,
        "kill9" => faults::kill9().await,
        _ => Err(format!("unknown scenario; there are {}", SCENARIOS.join(", "))),
    }
}

/// A setting, if it is not empty.
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(text()) }
}
