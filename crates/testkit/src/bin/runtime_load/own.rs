//! A service of our own, beside the live one, on its database: to be broken.

use crate::client::Client;
use crate::{Verdict, ensure, setting};
use std::process::Output;
use std::time::Duration;
use testkit::{Process, Program, eventually_some, free_port};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// `DATABASE_URL`.
pub(crate) fn database() -> Result<String, String> {
    setting("DATABASE_URL").ok_or_else(|| "DATABASE_URL is not set".to_owned())
}

/// The built program: `AGENT_API`.
fn program() -> Result<String, String> {
    setting("AGENT_API").ok_or_else(|| "AGENT_API, the path of the program, is not set".to_owned())
}

/// A running service, open on loopback.
pub(crate) struct Own {
    pub(crate) client: Client,
    process: Process,
}

impl Own {
    /// With the internal surface alone. Redis is at `redis_port` of loopback.
    pub(crate) async fn start(redis_port: u16) -> Result<Self, String> {
        let port = free_port();
        let process = Program::new(program()?)
            .env("DATABASE_URL", database()?)
            .env("REDIS_URL", format!("redis://127.0.0.1:{redis_port}"))
            .env("API_SURFACES", "internal")
            .env("RUNTIME_BIND_ADDR", format!("127.0.0.1:{port}"))
            .start();
        let own = Self {
            client: Client::open(&format!("http://127.0.0.1:{port}"))?,
            process,
        };
        let ready = eventually_some(READY_LIMIT, || async {
            own.client.is_ready().await.then_some(())
        });
        ready.await.ok_or("the program did not become ready")?;
        Ok(own)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// Runs a command of the program; its output must contain `expected`.
pub(crate) fn command(args: &[&str], expected: &str) -> Verdict {
    let mut command = std::process::Command::new(program()?);
    let called = command.args(args).env("DATABASE_URL", database()?).output();
    let Output {
        status,
        stdout,
        stderr,
    } = called.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    ensure(status.success() && text.contains(expected), || {
        format!("agent-api {}: {status} {text}", args.join(" "))
    })
}
