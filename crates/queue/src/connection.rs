//! One supervised fred client: connects in the background, reconnects for ever, reports outages.
//!
//! Invariants:
//! - No command waits for a connection: every one is sent with `fail_fast` and a timeout, and never a second
//!   time by the client behind our back (a lost reply would run it twice). Repeating is our decision.
//! - Dropping the [`Connection`] ends its tasks and closes the socket.

use crate::endpoint::{Endpoint, Host, Layout};
use crate::error::QueueError;
use crate::options::RedisOptions;
use crate::script::Script;
use crate::supervision::{LastAnswer, keep_connected, replace_when_silent, report_outages};
use fred::clients::{Client, SubscriberClient, WithOptions};
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, EventInterface, FredResult};
use fred::types::config::{
    Blocking, Config, ConnectionConfig, Options, PerformanceConfig, ReconnectPolicy, Server, ServerConfig,
    TcpConfig, TlsConfig, TlsConnector, UnresponsiveConfig,
};
use fred::types::{Builder, ClusterHash, Key, RespVersion, Value};
use futures::future::BoxFuture;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for an answer where the caller can do without (push, publish).
const BRIEF: Duration = Duration::from_secs(1);
/// Longest wait for any other answer.
const NORMAL: Duration = Duration::from_secs(5);
/// Longest wait for a connection to come up before the next try. With the longest pause between two tries it stays
/// below the 5 s in which work goes on after an outage.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that is not written to and answers nothing for this long is given up (in a cluster: to any node).
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(4);
const UNRESPONSIVE_CHECK: Duration = Duration::from_secs(1);
/// Reconnects: the first at once, then doubling from 50 ms to 1 s, for ever.
const RECONNECT_MIN_MS: u32 = 50;
const RECONNECT_MAX_MS: u32 = 1_000;
const RECONNECT_JITTER_MS: u32 = 200;
/// fred's event channels hold 32 messages by default, which a burst of published events overruns.
const SUBSCRIBER_CHANNEL_CAPACITY: usize = 4096;

/// How long a caller is ready to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    Brief,
    Normal,
}

impl Patience {
    pub(crate) fn options(self) -> Options {
        let timeout = match self {
            Self::Brief => BRIEF,
            Self::Normal => NORMAL,
        };
        Options {
            timeout: Some(timeout),
            max_attempts: Some(1),
            fail_fast: true,
            ..Options::default()
        }
    }
}

/// A client with the tasks that keep it alive.
#[derive(Debug)]
pub(crate) struct Connection<C = Client> {
    client: C,
    stop: CancellationToken,
    answers: LastAnswer,
    _tasks: DropGuard,
}

impl Connection<Client> {
    /// Returns at once; must be called inside the runtime that is to drive the socket.
    pub(crate) fn open(options: &RedisOptions, role: &'static str) -> Result<Self, QueueError> {
        let client = builder(options)?.build().map_err(unusable)?;
        let this = Self::supervised(client.clone(), role);
        let answers = this.answers.clone();
        tokio::spawn(replace_when_silent(client, role, answers, this.stop.clone()));
        Ok(this)
    }

    /// Runs a script with the given time to answer.
    pub(crate) async fn script(
        &self,
        script: &Script,
        keys: &[Key],
        args: &[Value],
        patience: Patience,
    ) -> Result<Value, QueueError> {
        let client = self.with(patience);
        let answer = measured(script.name, script.run(&client, keys, args)).await;
        if answer.is_ok() {
            self.answers.note();
        }
        answer
    }

    /// A command of its own was answered.
    pub(crate) fn note_answer(&self) {
        self.answers.note();
    }

    /// The client for a command that blocks up to `timeout` on the server.
    pub(crate) fn blocking(&self, timeout: Duration) -> WithOptions<Client> {
        self.client.with_options(&Options {
            timeout: Some(timeout),
            ..Patience::Normal.options()
        })
    }
}

impl Connection<SubscriberClient> {
    pub(crate) fn open_subscriber(options: &RedisOptions, role: &'static str) -> Result<Self, QueueError> {
        let mut builder = builder(options)?;
        builder.with_performance_config(|perf| perf.broadcast_channel_capacity = SUBSCRIBER_CHANNEL_CAPACITY);
        let client = builder.build_subscriber_client().map_err(unusable)?;
        Ok(Self::supervised(client, role))
    }
}

impl<C: ClientLike + EventInterface + 'static> Connection<C> {
    fn supervised(client: C, role: &'static str) -> Self {
        let stop = CancellationToken::new();
        tokio::spawn(report_outages(client.clone(), role, stop.clone()));
        tokio::spawn(keep_connected(client.clone(), role, stop.clone()));
        Self {
            client,
            stop: stop.clone(),
            answers: LastAnswer::default(),
            _tasks: stop.drop_guard(),
        }
    }

    /// The client for single commands; wrap them in [`measured`].
    pub(crate) fn with(&self, patience: Patience) -> WithOptions<C> {
        self.client.with_options(&patience.options())
    }

    /// Like [`Connection::with`]; in a cluster all commands go to the node of one slot, so in order.
    pub(crate) fn to_one_node(&self, patience: Patience) -> WithOptions<C> {
        self.client.with_options(&Options {
            cluster_hash: Some(ClusterHash::Custom(0)),
            ..patience.options()
        })
    }

    pub(crate) fn client(&self) -> &C {
        &self.client
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    /// True as soon as the connection is up, false when it is not within the limit.
    pub(crate) async fn comes_up_within(&self, limit: Duration) -> bool {
        let up = self.client.wait_for_connect();
        self.is_connected() || matches!(tokio::time::timeout(limit, up).await, Ok(Ok(())))
    }
}

/// Awaits a command, notes its duration, and turns its error into ours. Boxed, since fred's futures are tens of
/// kilobytes.
pub(crate) fn measured<'a, T>(
    operation: &'static str,
    command: impl Future<Output = FredResult<T>> + Send + 'a,
) -> BoxFuture<'a, Result<T, QueueError>>
where
    T: Send + 'a,
{
    Box::pin(async move {
        let started = Instant::now();
        let answer = command.await;
        metrics::histogram!("agent_redis_operation_seconds", "operation" => operation)
            .record(started.elapsed().as_secs_f64());
        answer.map_err(|fault| QueueError::of(operation, fault))
    })
}

fn unusable(fault: FredError) -> QueueError {
    QueueError::Settings(vec![fault.to_string()])
}

fn builder(options: &RedisOptions) -> Result<Builder, QueueError> {
    let endpoint = options.checked_endpoint()?;
    let mut builder = Builder::from_config(config(options, &endpoint)?);
    let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_MIN_MS, RECONNECT_MAX_MS, 2);
    policy.set_jitter(RECONNECT_JITTER_MS);
    builder
        .set_policy(policy)
        .set_performance_config(PerformanceConfig {
            default_command_timeout: NORMAL,
            ..PerformanceConfig::default()
        })
        .set_connection_config(ConnectionConfig {
            connection_timeout: CONNECT_TIMEOUT,
            internal_command_timeout: CONNECT_TIMEOUT,
            reconnect_on_auth_error: true,
            tcp: TcpConfig {
                nodelay: Some(true),
                ..TcpConfig::default()
            },
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE_AFTER),
                interval: UNRESPONSIVE_CHECK,
            },
            ..ConnectionConfig::default()
        });
    Ok(builder)
}

fn config(options: &RedisOptions, endpoint: &Endpoint) -> Result<Config, QueueError> {
    let tls = if endpoint.tls {
        let client = crate::tls::client_config(options.ca_file().as_deref())
            .map_err(|fault| QueueError::Settings(vec![format!("REDIS_CA_FILE ({fault})")]))?;
        Some(TlsConfig::from(TlsConnector::from(client)))
    } else {
        None
    };
    Ok(Config {
        fail_fast: false,
        blocking: Blocking::Block,
        username: endpoint.username.clone(),
        password: endpoint.password.clone(),
        server: server(&endpoint.layout),
        version: RespVersion::RESP3,
        database: endpoint.database,
        tls,
    })
}

fn server(layout: &Layout) -> ServerConfig {
    let pairs = |hosts: &[Host]| hosts.iter().map(|h| (h.name.clone(), h.port)).collect::<Vec<_>>();
    match layout {
        Layout::Single(host) => ServerConfig::Centralized {
            server: Server::new(host.name.clone(), host.port),
        },
        Layout::Sentinel { sentinels, service } => {
            ServerConfig::new_sentinel(pairs(sentinels), service.clone())
        }
        Layout::Cluster(hosts) => ServerConfig::new_clustered(pairs(hosts)),
    }
}
