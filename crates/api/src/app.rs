//! Build, then run, then drain.
//!
//! The listeners answer from the first moment: while the store is not usable yet, liveness is 200, readiness 503 and
//! routes answer 503. A store that stays away for `STARTUP_TIMEOUT_SECONDS` ends the process with 69.

use crate::auth::jwks::KeySet;
use crate::auth::jwt::{Rules, Verifier};
use crate::auth::{Authenticator, Tickets};
use crate::config::{JwtOptions, Options};
use crate::cors::Cors;
use crate::delivery::Delivery;
use crate::edge::Edge;
use crate::error::chain;
use crate::health::{Health, Probes};
use crate::ports::{RedisBus, RunEvents};
use crate::purse::Purse;
use crate::quota::Quota;
use crate::routes;
use crate::routes::runtime::{Access, Identity, Runtime, Signed};
use crate::startup::{StartError, StorePreparation};
use crate::state::{App, Limits, RunStore};
use crate::stream::{Pace, Tails, reconcile};
use axum::Router;
use bootstrap::Shutdown;
use bootstrap::http::{self, HttpLimits};
use bootstrap::settings::exit;
use domain::{Clock, Ids, Redactor, SystemClock, SystemIds};
use queue::{LiveBus, Nonces, Queue};
use runs::{ApiKeys, Credits, Db, Orchestration, Outbox, Reader, RuntimeRuns, SigningKeys, Workers};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longest header accepted: a line of thought comes in the query, where each of its 8192 bytes may take three.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Serves until a signal or a fault; the exit code. Logging must be set up.
pub async fn run(options: Options) -> u8 {
    let shutdown = Shutdown::new();
    let started = match shutdown.on_signals() {
        Ok(()) => Server::start(&options, &shutdown).await,
        Err(error) => Err(StartError::Signals(error)),
    };
    match started {
        Ok(server) => server.run().await,
        Err(error) => {
            tracing::error!(error = %chain(&error), "start failed");
            error.exit_code()
        }
    }
}

/// A server whose listeners are open.
#[derive(Debug)]
pub struct Server {
    /// Address of the public surface, if served.
    pub public: Option<SocketAddr>,
    /// Address of the internal surface, if served.
    pub internal: Option<SocketAddr>,
    shutdown: Shutdown,
    store: StorePreparation,
    /// Fires when the Redis server cannot be used with these settings.
    unfit: CancellationToken,
    grace: Duration,
}

/// What all surfaces share.
struct Parts {
    db: Db,
    queue: Option<Queue>,
    live: Option<LiveBus>,
    /// Where requests of the internal surface are signed.
    nonces: Option<Nonces>,
    delivery: Delivery,
    health: Health,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    redactor: Arc<Redactor>,
}

impl Parts {
    async fn build(options: &Options, shutdown: &Shutdown) -> Result<Self, StartError> {
        let db = Db::connect(&options.db)?;
        let (queue, live) = if options.redis.validate().missing.is_empty() {
            let queue = Queue::connect(&options.redis).await?;
            (Some(queue), Some(LiveBus::connect(&options.redis)?))
        } else {
            (None, None)
        };
        let signs = options.serves_internal() && options.runtime.runtime_signature_secret.is_some();
        let nonces = signs.then(|| Nonces::connect(&options.redis)).transpose()?;
        let delivery = Delivery::new(queue.clone(), Outbox::new(db.clone()));
        Ok(Self {
            delivery,
            health: Health::new(&options.server.api_version, shutdown.soft()),
            clock: Arc::new(SystemClock),
            ids: Arc::new(SystemIds),
            redactor: Arc::new(options.redactor()),
            db,
            queue,
            live,
            nonces,
        })
    }

    fn authenticator(&self, jwt: &JwtOptions) -> Authenticator {
        let rules = Rules {
            issuers: jwt
                .jwt_issuers
                .iter()
                .map(|issuer| issuer.trim().to_owned())
                .collect(),
            audience: jwt.jwt_audience.clone(),
            require_exp: jwt.jwt_require_exp,
            admin_role: jwt.jwt_admin_role.clone(),
        };
        let secret = jwt.jwt_secret.as_ref().map(|secret| secret.expose().as_str());
        let keys = jwt
            .jwt_jwks_url
            .clone()
            .map(|url| KeySet::new(url, reqwest::Client::new()));
        Authenticator {
            verifier: Arc::new(Verifier::new(secret, keys, rules)),
            keys: ApiKeys::new(self.db.clone(), self.clock.clone(), self.ids.clone()),
            clock: self.clock.clone(),
        }
    }

    fn tickets(&self, options: &Options) -> Tickets {
        let ttl = Duration::from_secs(options.server.stream_ticket_ttl_seconds);
        Tickets::new(SigningKeys::new(self.db.clone()), self.clock.clone(), ttl)
    }

    /// A Redis server that is unfit to hold a queue ends the process with 64.
    fn vet_redis(&self, shutdown: &Shutdown) -> CancellationToken {
        match self.queue.clone() {
            Some(queue) => shutdown.begin_when_unfit(async move { queue.vet_server().await }),
            None => CancellationToken::new(),
        }
    }

    fn spawn_background(&self, options: &Options, shutdown: &Shutdown) {
        let stop = shutdown.soft();
        let probes = Probes::new(self.db.clone(), self.queue.clone(), options);
        let watch = self.health.clone().watch(probes, stop.clone());
        shutdown.spawn("health", endless(watch));
        if self.queue.is_some() {
            shutdown.spawn("outbox relay", endless(self.delivery.clone().relay(stop)));
        }
    }

    fn orchestration(&self) -> Orchestration {
        Orchestration::new(self.db.clone(), self.clock.clone(), self.ids.clone())
            .with_redactor(self.redactor.clone())
    }

    fn public(&self, options: &Options, shutdown: &Shutdown) -> Router {
        let reader = Reader::new(self.db.clone());
        let bus = RedisBus::new(self.live.clone(), self.redactor.clone());
        let tails = Tails::new(RunEvents(reader.clone()), bus, self.clock.clone());
        shutdown.spawn(
            "stream reconciler",
            endless(reconcile::run(tails.clone(), shutdown.soft())),
        );
        let app = App {
            auth: self.authenticator(&options.jwt),
            tickets: self.tickets(options),
            runs: RunStore::new(self.orchestration(), reader),
            delivery: self.delivery.clone(),
            queue: self.queue.clone(),
            tails,
            pace: Pace::default(),
            health: self.health.clone(),
            limits: Limits {
                max_body_bytes: options.server.agent_max_body_bytes,
                create_autostart: options.server.agent_create_autostart,
                max_retries: options.server.worker_max_retries,
                budget: options.credits.budget(),
                write_mode: options.write_mode(),
                download_ttl: options.downloads.ttl(),
            },
            files: options.files(),
            quota: Quota::new(options.limits.quotas()),
            purse: Purse::new(Credits::new(self.db.clone()), &options.credits),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            redactor: self.redactor.clone(),
            stop: shutdown.soft(),
        };
        let cors = Cors::parse(&options.server.cors_origins).unwrap_or(Cors::Listed(vec![]));
        let edge = Edge {
            ids: self.ids.clone(),
            cors: Arc::new(cors),
            patience: Duration::from_secs(options.limits.api_request_timeout_seconds),
        };
        routes::public(app, edge)
    }

    fn internal(&self, options: &Options, bound: SocketAddr) -> Router {
        let signed = self
            .nonces
            .clone()
            .zip(options.runtime.runtime_signature_secret.as_ref());
        let signed = signed.map(|(nonces, secret)| Signed::new(secret.expose(), nonces));
        routes::runtime::figures::register();
        let access = Access::new(self.authenticator(&options.jwt), signed, bound);
        let service = &options.runtime.runtime_service_name;
        tracing::info!(service, bind_addr = %bound, auth = access.word(), "runtime service listening");
        access.announce();
        routes::runtime::router(Runtime {
            access: Arc::new(access),
            identity: Arc::new(Identity {
                service: service.clone(),
                build_sha: options.runtime.runtime_build_sha.clone(),
                started_at: Instant::now(),
            }),
            runs: RuntimeRuns::new(self.db.clone(), self.clock.clone(), self.ids.clone())
                .with_redactor(self.redactor.clone()),
            workers: Workers::new(
                self.db.clone(),
                self.clock.clone(),
                self.ids.clone(),
                options.runtime.runtime_heartbeat_stale_after_ms,
            )
            .with_redactor(self.redactor.clone()),
            delivery: self.delivery.clone(),
            health: self.health.clone(),
            write_mode: options.write_mode(),
            max_body_bytes: options.runtime.runtime_max_body_bytes,
            ids: self.ids.clone(),
        })
    }
}

async fn endless(task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    task.await;
    Ok(())
}

impl Server {
    /// Opens the listeners and begins to answer.
    pub async fn start(options: &Options, shutdown: &Shutdown) -> Result<Self, StartError> {
        bootstrap::telemetry::metrics();
        let deadline = Instant::now() + Duration::from_secs(options.server.startup_timeout_seconds);
        let parts = Parts::build(options, shutdown).await?;
        let public = listener(options.serves_public(), &options.server.api_bind_addr, deadline).await?;
        let internal = listener(
            options.serves_internal(),
            &options.runtime.runtime_bind_addr,
            deadline,
        )
        .await?;
        warn_of_ignored(options);
        parts.spawn_background(options, shutdown);
        let addr = |listener: &Option<TcpListener>| listener.as_ref().and_then(|own| own.local_addr().ok());
        let (public_addr, internal_addr) = (addr(&public), addr(&internal));
        if let (Some(listener), Some(bound)) = (internal, internal_addr) {
            open(listener, parts.internal(options, bound), options, shutdown);
        }
        if let (Some(listener), Some(bound)) = (public, public_addr) {
            tracing::info!(bind_addr = %bound, version = %options.server.api_version, "agent api listening");
            open(listener, parts.public(options, shutdown), options, shutdown);
        }
        Ok(Self {
            public: public_addr,
            internal: internal_addr,
            unfit: parts.vet_redis(shutdown),
            shutdown: shutdown.clone(),
            store: StorePreparation {
                db: parts.db,
                migrate: options.server.db_auto_migrate,
                deadline,
            },
            grace: Duration::from_secs(options.server.api_shutdown_grace_seconds),
        })
    }

    /// Prepares the store, serves, drains; the exit code.
    pub async fn run(self) -> u8 {
        let soft = self.shutdown.soft();
        let prepared = tokio::select! {
            prepared = self.store.prepare() => prepared,
            () = soft.cancelled() => Ok(()),
        };
        if let Err(error) = prepared {
            tracing::error!(error = %chain(&error), "start failed");
            self.shutdown.abort();
            return error.exit_code();
        }
        let in_time = self.shutdown.drained(self.grace).await;
        tracing::info!(in_time, "stopped");
        if self.unfit.is_cancelled() {
            exit::SETTINGS
        } else if self.shutdown.crashed().is_some() {
            exit::INTERNAL
        } else {
            exit::OK
        }
    }
}

async fn listener(wanted: bool, addr: &str, deadline: Instant) -> Result<Option<TcpListener>, StartError> {
    if !wanted {
        return Ok(None);
    }
    let bound = http::bind(addr, deadline.saturating_duration_since(Instant::now())).await;
    bound
        .map(Some)
        .map_err(|error| StartError::Address(addr.to_owned(), error))
}

fn open(listener: TcpListener, router: Router, options: &Options, shutdown: &Shutdown) {
    let (soft, hard) = (shutdown.soft(), shutdown.hard());
    let limits = HttpLimits {
        write_stall: Duration::from_secs(options.server.api_write_stall_seconds),
        max_buf_bytes: MAX_HEADER_BYTES,
        ..HttpLimits::default()
    };
    shutdown.track(http::serve(listener, router, limits, soft, hard));
}

fn warn_of_ignored(options: &Options) {
    let runtime = &options.runtime;
    let given = [
        ("RUNTIME_EVENT_LOG_PATH", runtime.runtime_event_log_path.is_some()),
        (
            "RUNTIME_CHECKPOINT_PATH",
            runtime.runtime_checkpoint_path.is_some(),
        ),
    ];
    let names: Vec<&str> = given
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect();
    if !names.is_empty() {
        tracing::warn!(settings = names.join(", "), "setting ignored");
    }
}
