//! The queue, as Redis has it.

use crate::args::{QueueAction, QueueArgs};
use crate::console::{Console, harmless, one_line};
use crate::failure::{Code, Failure};
use crate::place::Place;
use crate::render;
use queue::{ListName, Queue, QueueError, RedisOptions};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long Redis may take to be there and to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// Longest shown error of a dead letter, in characters.
const MAX_ERROR: usize = 80;

/// `agentctl queue`
pub async fn queue(console: Console, place: &Place, args: &QueueArgs) -> Result<Code, Failure> {
    let queue = connect(place).await?;
    match &args.action {
        None => stats(console, &queue, false).await,
        Some(QueueAction::Stats { json }) => stats(console, &queue, *json).await,
        Some(QueueAction::Peek { list, limit }) => peek(console, &queue, list, *limit).await,
        Some(QueueAction::Dead { limit, json }) => dead(console, &queue, *limit, *json).await,
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

fn failed(error: &QueueError) -> Failure {
    Failure::new("Redis refused")
        .why(error)
        .fix("see `agentctl doctor`")
}

async fn stats(console: Console, queue: &Queue, as_json: bool) -> Result<Code, Failure> {
    let depths = queue.depths().await.map_err(|error| failed(&error))?;
    let rows: Vec<(String, u64)> = ListName::ALL
        .iter()
        .map(|list| (list.suffix().to_owned(), depths.of(*list)))
        .collect();
    if as_json {
        let object: Map<String, Value> = rows
            .into_iter()
            .map(|(name, depth)| (name, json!(depth)))
            .collect();
        console.out(&Value::Object(object).to_string())?;
        return Ok(Code::Ok);
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, depth)| vec![name, depth.to_string()])
        .collect();
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    Ok(Code::Ok)
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

async fn dead(console: Console, queue: &Queue, limit: usize, as_json: bool) -> Result<Code, Failure> {
    let jobs = queue
        .peek(list_named("failed")?, 0, limit)
        .await
        .map_err(|error| failed(&error))?;
    if jobs.is_empty() {
        console.note("no dead letters");
    }
    for job in &jobs {
        if as_json {
            console.out(&harmless(job))?;
            continue;
        }
        let value: Value = serde_json::from_str(job).unwrap_or(Value::Null);
        let field = |key: &str| value[key].as_str().unwrap_or("-").to_owned();
        console.out(&format!(
            "{}  {}  {}  {}",
            field("failed_at"),
            field("run_id"),
            field("reason"),
            one_line(&field("error"), MAX_ERROR)
        ))?;
    }
    Ok(Code::Ok)
}
