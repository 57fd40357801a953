//! What a started system tells its people: the shell file and the text with the lines to paste.

use crate::console::{Console, Style};
use crate::envfile::{self, quote};
use crate::failure::Failure;
use crate::place::{DEFAULT_HOME, ENV_FILE};
use crate::up::home::{Home, State};
use crate::up::plan::Plan;

/// The prompt of the example.
const EXAMPLE: &str = "List files and create a test.txt file";

/// Writes `home/env`.
pub fn write_env(home: &Home, plan: &Plan) -> Result<(), Failure> {
    let path = |name: &str| home.file(name).to_string_lossy().into_owned();
    let log = |name: &str| home.log_path(name).to_string_lossy().into_owned();
    let mut values = vec![
        ("API_URL", plan.api_url()),
        ("RUNTIME_URL", format!("http://127.0.0.1:{}", plan.internal_port)),
        ("TOKEN", plan.token.clone()),
        ("DATABASE_URL", plan.database_url.clone()),
        ("REDIS_URL", plan.redis_url.clone()),
        ("S3_ENDPOINT", plan.objects.endpoint.clone()),
        ("S3_REGION", plan.objects.region.clone()),
        ("S3_ACCESS_KEY", plan.objects.access_key.clone()),
        ("S3_SECRET_KEY", plan.objects.secret_key.clone()),
        ("S3_WORKSPACE_BUCKET", plan.objects.bucket.clone()),
        ("S3_FORCE_PATH_STYLE", "true".to_owned()),
        ("JWT_SECRET", plan.jwt_secret.clone()),
    ];
    if let Some(provider) = &plan.provider {
        values.push(("LLM_PRIMARY_PROVIDER", provider.clone()));
    }
    values.extend([
        ("AGENT_HOME", home.path().to_string_lossy().into_owned()),
        ("LOG_DIR", path("logs")),
        ("API_LOG", log("api")),
        ("WORKER_LOG", log("worker")),
        ("REDIS_LOG", log("redis")),
        ("POSTGRES_LOG", log("postgres")),
        ("AGENTCTL_LOG", log("agentctl")),
    ]);
    if let Some(port) = plan.worker_ports.first() {
        values.push(("WORKER_ADMIN_URL", format!("http://127.0.0.1:{port}")));
    }
    home.write(ENV_FILE, &envfile::render(&values))
}

/// Prints where everything is and what to paste.
pub fn print(console: Console, home: &Home, state: &State) -> Result<(), Failure> {
    let values = envfile::parse(&std::fs::read_to_string(home.file(ENV_FILE))?);
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let (api, token) = (value("API_URL"), value("TOKEN"));
    let model = if state.model == "scripted" {
        "scripted (offline; set ANTHROPIC_API_KEY or OPENAI_API_KEY for a real one)".to_owned()
    } else {
        state.model.clone()
    };
    let head = |name: &str| console.paint(Style::Bold, name);
    let auth = format!("-H 'Authorization: Bearer {token}'");
    let lines = [
        String::new(),
        console.paint(Style::Green, "ready"),
        format!("{}    {api}", head("API")),
        format!("{}  {token}", head("Token")),
        format!("{}  {model}", head("Model")),
        format!("{}   {}", head("Home"), home.path().display()),
        format!("{}   {}", head("Logs"), home.file("logs").display()),
        String::new(),
        head("Paste these three lines:"),
        format!(
            "RUN=$(curl -s {api}/agent/execute {auth} -d '{{\"action\":\"create\",\"prompt\":\"{EXAMPLE}\"}}' | sed 's/.*\"run_id\":\"\\([^\"]*\\)\".*/\\1/')"
        ),
        format!(
            "curl -s {api}/agent/execute {auth} -d '{{\"action\":\"start\",\"run_id\":\"'\"$RUN\"'\"}}'; echo"
        ),
        format!("curl -N {api}/agent/logs/$RUN/stream {auth}"),
        String::new(),
        head("or:"),
        format!("{} run {}", command(home), quote(EXAMPLE).replace('\'', "\"")),
    ];
    lines.iter().try_for_each(|line| console.out(line))
}

/// How this very program is called for this home from the working directory.
pub fn command(home: &Home) -> String {
    let name = "agentctl";
    let own = std::env::current_exe().ok();
    let in_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| own.as_ref().is_some_and(|own| dir.join(name) == *own))
    });
    let program = match own {
        Some(own) if !in_path => shell_word(&own.to_string_lossy()),
        _ => name.to_owned(),
    };
    let is_default = std::env::current_dir().is_ok_and(|dir| dir.join(DEFAULT_HOME) == home.path());
    if is_default {
        return program;
    }
    format!("{program} --home {}", shell_word(&home.path().to_string_lossy()))
}

fn shell_word(text: &str) -> String {
    let simple = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(simple) {
        text.to_owned()
    } else {
        quote(text)
    }
}
