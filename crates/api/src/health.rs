//! Readiness: a background task asks the dependencies and keeps the last answers; requests only read them.
//!
//! Postgres and Redis decide over 200 or 503. S3 and the model are the worker's to use and only told here: S3 by a plain
//! request to its endpoint (any HTTP answer counts), the model by whether a provider is configured at all; both are
//! `not_configured` when this process has no such settings.

use crate::config::Options;
use queue::{Glance, Queue};
use runs::Db;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Time for each check.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1900);
/// Between two rounds: an answer is at most this plus one check old.
const INTERVAL: Duration = Duration::from_secs(2);
/// The first pause while not ready; it doubles up to [`INTERVAL`], so that a start is not two seconds late because
/// the connection to Redis came up a moment after the first round.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// An older round means that the checks hang: not ready.
const MAX_AGE: Duration = Duration::from_secs(5);

/// State of one dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Ok,
    Error,
    NotConfigured,
}

impl Check {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::NotConfigured => "not_configured",
        }
    }

    fn of(good: bool) -> Self {
        if good { Self::Ok } else { Self::Error }
    }
}

/// One round of checks.
#[derive(Debug, Clone, Copy)]
pub struct Checks {
    pub postgres: Check,
    pub redis: Check,
    pub s3: Check,
    pub model: Check,
    /// Nothing while Redis does not tell.
    pub glance: Option<Glance>,
    at: Instant,
}

impl Checks {
    fn fresh(&self) -> bool {
        self.at.elapsed() <= MAX_AGE
    }

    /// The dependencies that decide are fine.
    pub fn ready(&self) -> bool {
        self.fresh() && self.postgres == Check::Ok && self.redis != Check::Error
    }

    /// Postgres answers and has every migration.
    pub fn store_ready(&self) -> bool {
        self.fresh() && self.postgres == Check::Ok
    }
}

/// What is asked, and how.
#[derive(Debug, Clone)]
pub struct Probes {
    pub db: Db,
    pub queue: Option<Queue>,
    /// None: not configured.
    pub s3: Option<(reqwest::Client, String)>,
    pub model_configured: bool,
}

impl Probes {
    pub fn new(db: Db, queue: Option<Queue>, options: &Options) -> Self {
        let (neighbours, s3) = (&options.neighbours, &options.s3);
        let model_configured = neighbours.llm_primary_provider.is_some()
            || neighbours.anthropic_api_key.is_some()
            || neighbours.openai_api_key.is_some()
            || neighbours.openai_base_url.is_some();
        Self {
            db,
            queue,
            s3: s3
                .keys()
                .map(|_| (reqwest::Client::new(), s3.s3_endpoint.clone())),
            model_configured,
        }
    }

    async fn round(&self) -> Checks {
        let (postgres, redis, s3, glance) =
            tokio::join!(self.postgres(), self.redis(), self.s3(), self.glance());
        let model = if self.model_configured {
            Check::Ok
        } else {
            Check::NotConfigured
        };
        Checks {
            postgres,
            redis,
            s3,
            model,
            glance,
            at: Instant::now(),
        }
    }

    async fn postgres(&self) -> Check {
        Check::of(matches!(
            timeout(CHECK_TIMEOUT, self.db.schema_is_current()).await,
            Ok(Ok(true))
        ))
    }

    async fn redis(&self) -> Check {
        let Some(queue) = &self.queue else {
            return Check::NotConfigured;
        };
        Check::of(matches!(timeout(CHECK_TIMEOUT, queue.ping()).await, Ok(Ok(()))))
    }

    async fn glance(&self) -> Option<Glance> {
        let looked = timeout(CHECK_TIMEOUT, self.queue.as_ref()?.glance()).await;
        looked.ok()?.ok()
    }

    async fn s3(&self) -> Check {
        let Some((client, endpoint)) = &self.s3 else {
            return Check::NotConfigured;
        };
        let asked = client.get(endpoint).timeout(CHECK_TIMEOUT).send().await;
        Check::of(asked.is_ok())
    }
}

/// The last answers. Cheap clone.
#[derive(Debug, Clone)]
pub struct Health {
    checks: watch::Sender<Option<Checks>>,
    stopping: CancellationToken,
    pub version: Arc<str>,
    reported: Arc<AtomicBool>,
    store_came_up: Arc<AtomicBool>,
}

impl Health {
    pub fn new(version: &str, stopping: CancellationToken) -> Self {
        Self {
            checks: watch::Sender::new(None),
            stopping,
            version: version.into(),
            reported: Arc::default(),
            store_came_up: Arc::default(),
        }
    }

    /// Asks at once, then again and again until `stop` fires: soon while a start is not ready yet, else every two seconds.
    pub async fn watch(self, probes: Probes, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let checks = probes.round().await;
            pause = if checks.ready() {
                INTERVAL
            } else {
                (pause * 2).min(INTERVAL)
            };
            self.report(&checks);
            self.checks.send_replace(Some(checks));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn report(&self, checks: &Checks) {
        if checks.postgres == Check::Ok {
            self.store_came_up.store(true, Ordering::Relaxed);
        }
        let ready = checks.ready();
        if self.reported.swap(ready, Ordering::Relaxed) != ready {
            let (postgres, redis) = (checks.postgres.as_str(), checks.redis.as_str());
            tracing::info!(ready, postgres, redis, "readiness changed");
        }
    }

    /// The last round; the very first is waited for.
    pub async fn checks(&self) -> Option<Checks> {
        let mut changes = self.checks.subscribe();
        let first = changes.wait_for(Option::is_some);
        let waited = timeout(CHECK_TIMEOUT, first).await;
        waited.ok()?.ok().and_then(|checks| *checks)
    }

    /// Whether the store was usable, schema included, at any time of this process. Before that its tables may be missing.
    pub fn store_came_up(&self) -> bool {
        self.store_came_up.load(Ordering::Relaxed)
    }

    pub fn stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// The body of `/ready`, and whether it is a 200.
    pub async fn readiness(&self) -> (bool, Value) {
        let checks = self.checks().await;
        let word = |check: fn(&Checks) -> Check| checks.as_ref().map_or(Check::Error, check).as_str();
        let ready = checks.is_some_and(|checks| checks.ready()) && !self.stopping();
        let mut body = json!({
            "status": if ready { "ready" } else { "not_ready" },
            "checks": {
                "postgres": word(|checks| checks.postgres),
                "redis": word(|checks| checks.redis),
                "s3": word(|checks| checks.s3),
                "model": word(|checks| checks.model),
            },
            "queue": checks.as_ref().and_then(|checks| checks.glance.as_ref()).map(Glance::to_json),
        });
        if self.stopping() {
            body["reason"] = json!("shutting_down");
        }
        (ready, body)
    }
}
