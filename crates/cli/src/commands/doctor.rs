//! `agentctl doctor`: each dependency with what was tried, what came back, and the fix in one line.

mod tools;

use crate::client::Api;
use crate::commands::{queue, redis_facts};
use crate::console::{Console, Style, one_line};
use crate::envfile;
use crate::failure::{Code, Failure};
use crate::objects::{Bucket, S3Settings};
use crate::place::Place;
use crate::up::{binaries, process::ProcessId};
use bootstrap::settings::{Faults, Lookup, Refusal, Validate, fault_lines, try_parse};
use runs::{Db, DbOptions};
use serde_json::json;

/// Longest shown answer, in characters.
const MAX_ANSWER: usize = 160;
/// Oldest Redis that has everything we use.
const MIN_REDIS_MAJOR: u32 = 7;

/// One check and its result.
#[derive(Debug)]
struct Check {
    name: &'static str,
    tried: String,
    /// What came back: good news, or the failure with its remedy.
    answer: Result<String, Failure>,
}

impl Check {
    fn new(name: &'static str, tried: impl Into<String>, answer: Result<String, Failure>) -> Self {
        Self {
            name,
            tried: tried.into(),
            answer,
        }
    }
}

/// Exit code 0 when every check is fine, else 1.
pub async fn doctor(console: Console, place: &Place, as_json: bool) -> Result<Code, Failure> {
    let mut checks = programs(place);
    checks.extend(postgres(place).await);
    checks.extend(redis(place).await);
    checks.extend(agreement(place).await);
    checks.push(objects(place).await);
    checks.extend(services(place).await?);
    checks.extend(tools::checks(place).await);
    checks.push(model(place));
    checks
        .iter()
        .try_for_each(|check| show(console, check, as_json))?;
    let bad = checks.iter().filter(|check| check.answer.is_err()).count();
    if !as_json {
        console.note(&format!("{} checks, {bad} to mend", checks.len()));
    }
    Ok(if bad == 0 { Code::Ok } else { Code::Failed })
}

fn show(console: Console, check: &Check, as_json: bool) -> Result<(), Failure> {
    let (is_ok, answer, fix) = match &check.answer {
        Ok(answer) => (true, answer.clone(), None),
        Err(failure) => {
            let why = failure
                .why
                .as_ref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            (false, format!("{}{why}", failure.what), failure.fix.clone())
        }
    };
    if as_json {
        let line =
            json!({"check": check.name, "ok": is_ok, "tried": check.tried, "answer": answer, "fix": fix});
        return console.out(&line.to_string());
    }
    let (style, mark) = if is_ok {
        (Style::Green, "ok  ")
    } else {
        (Style::Red, "FAIL")
    };
    console.out(&format!(
        "{} {:<10} {}",
        console.paint(style, mark),
        check.name,
        one_line(&answer, MAX_ANSWER)
    ))?;
    if !is_ok {
        console.out(&format!("     tried      {}", one_line(&check.tried, MAX_ANSWER)))?;
    }
    fix.map_or(Ok(()), |fix| {
        console.out(&format!("     fix        {}", one_line(&fix, MAX_ANSWER)))
    })
}

/// The programs; servers only when none is named by an address that is not ours.
fn programs(place: &Place) -> Vec<Check> {
    let env = envfile::process();
    let mut checks = vec![];
    for (name, program) in [("agent-api", "agent-api"), ("worker", "agent-worker")] {
        let found = binaries::ours(program, &env).map(|path| path.display().to_string());
        checks.push(Check::new(name, format!("look for {program}"), found));
    }
    if place.home.is_some() || place.get("REDIS_URL").is_none() {
        let found = binaries::redis(&env).map(|found| format!("{} {}", found.path.display(), found.version));
        checks.push(Check::new("redis bin", "REDIS_BIN, PATH, usual places", found));
    }
    if place.home.is_some() || place.get("DATABASE_URL").is_none() {
        let found =
            binaries::postgres(&env, None).map(|found| format!("{} {}", found.path.display(), found.version));
        checks.push(Check::new(
            "pg bin",
            "PG_BIN, pg_config, PATH, usual places",
            found,
        ));
    }
    checks
}

#[derive(Debug, clap::Parser)]
struct Database {
    #[command(flatten)]
    options: DbOptions,
}

/// What is wrong with the settings, in one line.
fn why(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Settings(faults) => fault_lines(faults).join("; "),
        Refusal::CommandLine(error) => error.to_string(),
    }
}

impl Validate for Database {
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

async fn postgres(place: &Place) -> Vec<Check> {
    let lookup = Lookup::from_pairs(place.values().clone());
    let down = |what: &str| {
        Failure::new(what.to_owned())
            .fix("start it with `agentctl up`, or set DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD)")
    };
    let options = match try_parse::<Database>(["doctor".into()], &lookup) {
        Ok(database) => database.options,
        Err(refusal) => {
            let failure = down("the settings are wrong").because(why(&refusal));
            return vec![Check::new("postgres", "read the settings", Err(failure))];
        }
    };
    let tried = "connect and SELECT 1";
    let db = match Db::connect(&options) {
        Ok(db) => db,
        Err(error) => {
            return vec![Check::new(
                "postgres",
                tried,
                Err(down("no usable address").why(&error)),
            )];
        }
    };
    if let Err(error) = db.ping().await {
        return vec![Check::new("postgres", tried, Err(down("no answer").why(&error)))];
    }
    let schema = match db.schema_is_current().await {
        Ok(true) => Ok("the schema is current".to_owned()),
        Ok(false) => Err(Failure::new("the schema is older than this program").fix("agentctl migrate")),
        Err(error) => Err(Failure::new("the schema cannot be read")
            .why(&error)
            .fix("agentctl migrate")),
    };
    vec![
        Check::new("postgres", tried, Ok("answers".to_owned())),
        Check::new("schema", "compare the applied migrations", schema),
    ]
}

async fn redis(place: &Place) -> Vec<Check> {
    let mut checks = vec![];
    let answered = queue::connect(place).await.map(|_| "answers".to_owned());
    let is_up = answered.is_ok();
    checks.push(Check::new("redis", "PING through the queue's client", answered));
    let Some(url) = place
        .get("REDIS_URL")
        .filter(|url| is_up && url.starts_with("redis://"))
    else {
        return checks;
    };
    let facts = match redis_facts::ask(url).await {
        Ok(facts) => facts,
        Err(error) => {
            let failure = Failure::new("the server tells nothing of itself").why(&error);
            checks.push(Check::new("redis conf", "INFO and CONFIG GET", Err(failure)));
            return checks;
        }
    };
    let major = facts
        .version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    let version = match major {
        Some(major) if major >= MIN_REDIS_MAJOR => Ok(facts.version.clone()),
        _ => {
            Err(Failure::new(format!("version {}", facts.version)).fix("install Redis 7 or newer, or Valkey"))
        }
    };
    checks.push(Check::new("redis ver", "INFO server", version));
    let policy = match facts.policy.as_deref() {
        None | Some("noeviction") => Ok(facts
            .policy
            .clone()
            .unwrap_or_else(|| "not told by the server".to_owned())),
        Some(other) => Err(
            Failure::new(format!("{other}: Redis may drop jobs when memory is short"))
                .fix("redis-cli CONFIG SET maxmemory-policy noeviction"),
        ),
    };
    checks.push(Check::new("redis mem", "CONFIG GET maxmemory-policy", policy));
    let persistence = if facts.persists {
        Ok("on".to_owned())
    } else {
        Err(
            Failure::new("off: a restart of Redis empties the queue until it is rebuilt from Postgres")
                .fix("redis-cli CONFIG SET appendonly yes"),
        )
    };
    checks.push(Check::new("redis aof", "INFO persistence", persistence));
    checks
}

/// Runs and queue compared; nothing when one of the two stores cannot be asked, which is told already.
async fn agreement(place: &Place) -> Option<Check> {
    let queue = queue::connect(place).await.ok()?;
    let db = queue::database(place).ok()?;
    db.ping().await.ok()?;
    let tried = "compare the queue with the runs";
    Some(Check::new("queue", tried, queue::summary(queue, &db).await))
}

async fn objects(place: &Place) -> Check {
    let tried = "put, get and delete an object";
    let settings = match S3Settings::of(place) {
        Ok(settings) => settings,
        Err(failure) => return Check::new("s3", tried, Err(failure)),
    };
    Check::new("s3", tried, round_trip(&Bucket::new(&settings)).await)
}

async fn round_trip(bucket: &Bucket) -> Result<String, Failure> {
    let own = ProcessId::own().map(|own| own.started).unwrap_or_default();
    let key = format!(".agent/doctor-{}-{own}", std::process::id());
    bucket.put(&key, b"doctor".to_vec()).await?;
    let read = bucket.get(&key).await?;
    bucket.delete(&key).await?;
    if read == b"doctor" {
        Ok(format!("bucket {} keeps what it is given", bucket.name()))
    } else {
        Err(
            Failure::new(format!("bucket {} gives back something else", bucket.name()))
                .fix("check S3_ENDPOINT: is a cache or another store in between?"),
        )
    }
}

async fn services(place: &Place) -> Result<Vec<Check>, Failure> {
    let mut checks = vec![ready("api", &Api::at(place)?, "/ready").await];
    if let Some(url) = place.get("WORKER_ADMIN_URL") {
        checks.push(ready("worker", &Api::new(url, None)?, "/readyz").await);
    }
    Ok(checks)
}

async fn ready(name: &'static str, service: &Api, path: &str) -> Check {
    let answer = match service.probe(path).await {
        Ok((status, body)) if status.is_success() => Ok(format!("ready, {}", body["checks"])),
        Ok((status, body)) => Err(Failure::new(format!("not ready ({}), {body}", status.as_u16()))
            .fix("mend the checks named above; see its log (`agentctl env` names it)")),
        Err(failure) => Err(failure),
    };
    Check::new(name, format!("GET {}{path}", service.base()), answer)
}

fn model(place: &Place) -> Check {
    let key_of = |provider: &str| match provider {
        "anthropic" => Some(("ANTHROPIC_API_KEY", place.get("ANTHROPIC_API_KEY").is_some())),
        "openai" => {
            let is_set = place
                .get("OPENAI_API_KEY")
                .or_else(|| place.get("OPENAI_BASE_URL"))
                .is_some();
            Some(("OPENAI_API_KEY or OPENAI_BASE_URL", is_set))
        }
        "recorded" => Some(("LLM_CASSETTE_DIR", place.get("LLM_CASSETTE_DIR").is_some())),
        _ => None,
    };
    let answer = match place.get("LLM_PRIMARY_PROVIDER") {
        Some(provider) => match key_of(provider) {
            // Keys are never written down: those of a running system are in its environment alone.
            Some((setting, false)) if place.home.is_some() => Ok(format!(
                "{provider}; {setting} is not seen from here, the system has it from its own environment"
            )),
            Some((setting, false)) => {
                Err(Failure::new(format!("{provider} without {setting}")).fix(format!("set {setting}")))
            }
            _ => Ok(provider.to_owned()),
        },
        None => ["anthropic", "openai"]
            .into_iter()
            .find(|provider| key_of(provider).is_some_and(|(_, is_set)| is_set))
            .map(|provider| format!("{provider}, by its key"))
            .ok_or_else(|| {
                Failure::new("no model is chosen")
                    .fix("set ANTHROPIC_API_KEY or OPENAI_API_KEY, or LLM_PRIMARY_PROVIDER=scripted")
            }),
    };
    Check::new("model", "read the settings (no call is made)", answer)
}
