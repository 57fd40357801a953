//! `agentctl queue`: what operators see of the queue and do to it.
//!
//! Redis alone is enough to look and to pause; what concerns runs (dead letters with their attempts, retries, the
//! doctor) needs Postgres too.

mod doctor;
mod drain;
mod findings;
mod history;
mod letters;
mod retry;
mod stats;

pub use doctor::summary;

use crate::args::{QueueAction, QueueArgs};
use crate::console::{Console, harmless};
use crate::failure::{Code, Failure};
use crate::place::Place;
use bootstrap::settings::{Faults, Lookup, Validate, try_parse};
use queue::{ListName, Queue, QueueError, RedisOptions};
use runs::{Db, DbOptions};
use std::time::Duration;

/// How long Redis may take to be there and to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Does what the command line says.
pub async fn queue(console: Console, place: &Place, args: &QueueArgs) -> Result<Code, Failure> {
    let queue = connect(place).await?;
    let Some(action) = &args.action else {
        return stats::stats(console, &queue, place, false).await;
    };
    match action {
        QueueAction::Stats { json } => stats::stats(console, &queue, place, *json).await,
        QueueAction::Peek { list, limit } => peek(console, &queue, list, *limit).await,
        QueueAction::Dead { filter, limit, json } => {
            let shown = letters::Shown {
                filter,
                limit: *limit,
                as_json: *json,
            };
            letters::dead(console, &queue, place, shown).await
        }
        QueueAction::Retry(args) => retry::retry(console, &queue, place, args).await,
        QueueAction::Drop(args) => letters::drop_letters(console, &queue, args).await,
        QueueAction::Pause => set_paused(console, &queue, true).await,
        QueueAction::Resume => set_paused(console, &queue, false).await,
        QueueAction::Drain { timeout } => drain::drain(console, &queue, Duration::from_secs(*timeout)).await,
        QueueAction::Doctor { fix, json } => {
            let how = doctor::How {
                fix: *fix,
                as_json: *json,
            };
            doctor::doctor(console, queue, &database(place)?, how).await
        }
    }
}

/// The settings of the queue from the place.
pub fn options(place: &Place) -> RedisOptions {
    let value = |name: &str| place.get(name).map(str::to_owned);
    RedisOptions {
        redis_url: value("REDIS_URL"),
        dragonfly_host: value("DRAGONFLY_HOST"),
        dragonfly_port: value("DRAGONFLY_PORT"),
        dragonfly_password: value("DRAGONFLY_PASSWORD"),
        redis_ca_file: value("REDIS_CA_FILE"),
        queue_prefix: value("QUEUE_PREFIX"),
    }
}

/// A queue that answers, or the reason why not.
pub async fn connect(place: &Place) -> Result<Queue, Failure> {
    let told = |error: &QueueError| {
        Failure::new("Redis does not answer")
            .why(error)
            .fix("start it with `agentctl up`, or set REDIS_URL")
            .code(Code::Unreachable)
    };
    let queue = Queue::connect(&options(place))
        .await
        .map_err(|error| told(&error))?;
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, async {
        loop {
            match queue.ping().await {
                Ok(()) => return,
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    });
    match answered.await {
        Ok(()) => Ok(queue),
        Err(_) => queue.ping().await.map(|()| queue).map_err(|error| told(&error)),
    }
}

#[derive(Debug, clap::Parser)]
struct Database {
    #[command(flatten)]
    options: DbOptions,
}

impl Validate for Database {
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

/// The run store of the place; nothing is contacted yet.
pub fn database(place: &Place) -> Result<Db, Failure> {
    if place.get("DATABASE_URL").is_none() && place.get("POSTGRES_HOST").is_none() {
        return Err(Failure::new("DATABASE_URL is not known")
            .because("this needs the run store beside Redis")
            .fix("set DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD), or name the home with --home")
            .code(Code::Unreachable));
    }
    let wrong = || Failure::new("the database settings cannot be used").code(Code::Unreachable);
    let lookup = Lookup::from_pairs(place.values().clone());
    let parsed = try_parse::<Database>(["queue".into()], &lookup)
        .map_err(|refusal| wrong().because(format!("{refusal:?}")))?;
    Db::connect(&parsed.options).map_err(|error| wrong().why(&error))
}

fn failed(error: &QueueError) -> Failure {
    Failure::new("Redis refused")
        .why(error)
        .fix("see `agentctl doctor`")
}

fn store_failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new("Postgres refused")
        .why(error)
        .fix("see `agentctl doctor`")
}

fn list_named(name: &str) -> Result<ListName, Failure> {
    ListName::ALL
        .into_iter()
        .find(|list| list.suffix() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = ListName::ALL.iter().map(|list| list.suffix()).collect();
            Failure::new(format!("no such list: {name}"))
                .fix(format!("one of: {}", names.join(", ")))
                .code(Code::Usage)
        })
}

async fn peek(console: Console, queue: &Queue, name: &str, limit: usize) -> Result<Code, Failure> {
    let jobs = queue
        .peek(list_named(name)?, 0, limit)
        .await
        .map_err(|error| failed(&error))?;
    jobs.iter().try_for_each(|job| console.out(&harmless(job)))?;
    Ok(Code::Ok)
}

async fn set_paused(console: Console, queue: &Queue, paused: bool) -> Result<Code, Failure> {
    queue.set_paused(paused).await.map_err(|error| failed(&error))?;
    console.out(if paused {
        "paused: no job is claimed until `agentctl queue resume`; running jobs go on"
    } else {
        "claiming goes on"
    })?;
    Ok(Code::Ok)
}
