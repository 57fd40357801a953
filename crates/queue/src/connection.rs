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
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for an answer where the caller can do without (push, publish).
const BRIEF: Duration = Duration::from_secs(1);
/// Longest wait for any other answer.
const NORMAL: Duration = Duration::from_secs(5);
/// Longest wait for a connection to come up before the next try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that answers nothing for this long is given up.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(10);
const UNRESPONSIVE_CHECK: Duration = Duration::from_secs(3);
/// Reconnects: the first at once, then doubling from 50 ms to 2 s, for ever.
const RECONNECT_MIN_MS: u32 = 50;
const RECONNECT_MAX_MS: u32 = 2_000;
const RECONNECT_JITTER_MS: u32 = 50;
/// Pause before a client that gave up (wrong password) is started again.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// Longest wait for an orderly goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two log lines of one outage, in seconds; the last one repeats.
const OUTAGE_LOG_SECONDS: [u64; 5] = [1, 2, 4, 8, 10];
/// fred's event channels hold 32 messages by default, which a burst of published events overruns.
const SUBSCRIBER_CHANNEL_CAPACITY: usize = 4096;

/// How long a caller is ready to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    Brief,
    Normal,
}

impl Patience {
    fn options(self) -> Options {
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
    _tasks: DropGuard,
}

impl Connection<Client> {
    /// Returns at once; must be called inside the runtime that is to drive the socket.
    pub(crate) fn open(options: &RedisOptions, role: &'static str) -> Result<Self, QueueError> {
        let client = builder(options)?.build().map_err(unusable)?;
        Ok(Self::supervised(client, role))
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
        measured(script.name, script.run(&client, keys, args)).await
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

/// fred ends its task for good on some errors (authentication); start it again, since the password or the
/// server may be put right.
async fn keep_connected<C: ClientLike>(client: C, role: &'static str, stop: CancellationToken) {
    loop {
        let mut task = client.connect();
        tokio::select! {
            () = stop.cancelled() => {
                if tokio::time::timeout(QUIT_TIMEOUT, client.quit()).await.is_err() {
                    tracing::debug!(role, "redis connection closed without a goodbye");
                }
                task.abort();
                return;
            }
            ended = &mut task => {
                tracing::debug!(role, ?ended, "redis client ended; starting it again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART_AFTER) => {}
        }
    }
}

/// Counts every connection error and logs those of one outage at a slowing pace.
async fn report_outages<C: ClientLike + EventInterface>(
    client: C,
    role: &'static str,
    stop: CancellationToken,
) {
    let mut errors = client.error_rx();
    let mut connects = client.reconnect_rx();
    let mut outage = Outage::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            error = errors.recv() => match error {
                Ok((fault, _)) => {
                    metrics::counter!("agent_redis_connection_errors_total").increment(1);
                    if outage.is_worth_a_line(Instant::now()) {
                        tracing::warn!(role, fault = %fault, "redis is not reachable; trying again");
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    metrics::counter!("agent_redis_connection_errors_total").increment(missed);
                }
                Err(RecvError::Closed) => return,
            },
            connected = connects.recv() => {
                if matches!(connected, Err(RecvError::Closed)) {
                    return;
                }
                if outage.end() {
                    tracing::info!(role, "redis is reachable again");
                }
            }
        }
    }
}

/// When an outage's next failure is logged.
#[derive(Debug, Default)]
struct Outage {
    lines: usize,
    next_line: Option<Instant>,
}

impl Outage {
    fn is_worth_a_line(&mut self, now: Instant) -> bool {
        if self.next_line.is_some_and(|next| now < next) {
            return false;
        }
        let step = self.lines.min(OUTAGE_LOG_SECONDS.len() - 1);
        self.next_line = Some(now + Duration::from_secs(OUTAGE_LOG_SECONDS[step]));
        self.lines += 1;
        true
    }

    /// True when there was one.
    fn end(&mut self) -> bool {
        std::mem::take(self).lines > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_after_1_2_4_8_and_then_every_10_seconds() {
        let start = Instant::now();
        let mut outage = Outage::default();
        let lines: Vec<u64> = (0..50)
            .filter(|second| outage.is_worth_a_line(start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(lines, [0, 1, 3, 7, 15, 25, 35, 45]);
        assert!(outage.end());
        assert!(!outage.end());
    }
}
