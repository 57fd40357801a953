//! Reference-counted channel subscriptions over one subscriber connection.
//!
//! Pub/sub is a hint, never the log: whatever may have lost a message (lag, reconnect, silence) becomes
//! [`Signal::Dirty`], which says "read the store again".
//!
//! Two tasks serve a bus: the *drain* passes messages on and never awaits anything downstream; the *keeper* is the
//! only one that sends SUBSCRIBE and UNSUBSCRIBE, so the two can never overtake each other. Dropping the last
//! handle ends both.

use crate::connection::{Connection, Patience, measured};
use crate::error::QueueError;
use crate::options::RedisOptions;
use fred::clients::SubscriberClient;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{Message, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait for the server to acknowledge a subscription; after it the subscription is pending.
const ACK_WAIT: Duration = Duration::from_millis(500);
/// A channel stays subscribed this long after its last watcher has gone.
const LINGER: Duration = Duration::from_secs(10);
/// Messages held for a slow watcher before it gets [`Signal::Dirty`] instead.
const WATCHER_BACKLOG: usize = 256;
/// Channels per SUBSCRIBE.
const SUBSCRIBE_BATCH: usize = 512;
/// How often the keeper looks for pending and lingering channels.
const TICK: Duration = Duration::from_millis(250);
/// How often the connection is asked whether it is alive; a half-open one is found only by asking.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a watcher of a channel gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A message as it was published.
    Message(Arc<str>),
    /// Messages may have been lost: read the store again.
    Dirty,
}

#[derive(Debug)]
struct Topic {
    signals: broadcast::Sender<Signal>,
    subscribed: watch::Sender<bool>,
    watchers: usize,
    idle_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Topics(Mutex<HashMap<String, Topic>>);

impl Topics {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Topic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, channel: &str, message: &Arc<str>) {
        if let Some(topic) = self.lock().get(channel) {
            // Nobody listening any more is no error: the channel lingers.
            topic.signals.send(Signal::Message(Arc::clone(message))).ok();
        }
    }

    fn all_dirty(&self) {
        for topic in self.lock().values() {
            topic.signals.send(Signal::Dirty).ok();
        }
    }

    fn none_subscribed(&self) {
        for topic in self.lock().values() {
            topic.subscribed.send_replace(false);
        }
    }

    fn pending(&self) -> Vec<String> {
        let topics = self.lock();
        let pending = topics.iter().filter(|(_, topic)| !*topic.subscribed.borrow());
        let channels = pending.map(|(channel, _)| channel.clone());
        channels.take(SUBSCRIBE_BATCH).collect()
    }

    fn now_subscribed(&self, channels: &[String]) {
        let topics = self.lock();
        for topic in channels.iter().filter_map(|channel| topics.get(channel)) {
            topic.subscribed.send_replace(true);
            // What was published before the acknowledgement is gone.
            topic.signals.send(Signal::Dirty).ok();
        }
    }

    /// Takes out the channels nobody has watched for [`LINGER`].
    fn take_idle(&self) -> Vec<String> {
        let now = Instant::now();
        let mut topics = self.lock();
        let idle: Vec<String> = topics
            .iter()
            .filter(|(_, topic)| {
                topic
                    .idle_since
                    .is_some_and(|since| now.duration_since(since) >= LINGER)
            })
            .map(|(channel, _)| channel.clone())
            .collect();
        for channel in &idle {
            topics.remove(channel);
        }
        idle
    }
}

#[derive(Debug)]
struct Shared {
    connection: Connection<SubscriberClient>,
    topics: Topics,
    wanted: Notify,
    connected: watch::Sender<bool>,
}

/// Handle of a bus; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Bus {
    shared: Arc<Shared>,
    _tasks: Arc<DropGuard>,
}

impl Bus {
    pub(crate) fn open(options: &RedisOptions, role: &'static str) -> Result<Self, QueueError> {
        let shared = Arc::new(Shared {
            connection: Connection::open_subscriber(options, role)?,
            topics: Topics::default(),
            wanted: Notify::new(),
            connected: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(drain(Arc::clone(&shared))));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(keep_subscribed(Arc::clone(&shared))),
        );
        Ok(Self {
            shared,
            _tasks: Arc::new(stop.drop_guard()),
        })
    }

    /// Watches a channel. Returns when the server has acknowledged, or after [`ACK_WAIT`] with the subscription
    /// pending: its first signal is then [`Signal::Dirty`], as soon as it stands.
    pub(crate) async fn watch(&self, channel: String) -> Watcher {
        let (watcher, mut subscribed) = self.join(channel);
        if !*subscribed.borrow_and_update() {
            self.shared.wanted.notify_one();
            let acknowledged = subscribed.wait_for(|yes| *yes);
            if !matches!(tokio::time::timeout(ACK_WAIT, acknowledged).await, Ok(Ok(_))) {
                tracing::debug!(channel = %watcher.channel, "subscription is pending");
            }
        }
        watcher
    }

    fn join(&self, channel: String) -> (Watcher, watch::Receiver<bool>) {
        let mut topics = self.shared.topics.lock();
        let topic = topics.entry(channel.clone()).or_insert_with(|| Topic {
            signals: broadcast::Sender::new(WATCHER_BACKLOG),
            subscribed: watch::Sender::new(false),
            watchers: 0,
            idle_since: None,
        });
        topic.watchers += 1;
        topic.idle_since = None;
        let watcher = Watcher {
            channel,
            signals: topic.signals.subscribe(),
            bus: self.clone(),
        };
        (watcher, topic.subscribed.subscribe())
    }

    /// True while the connection is up and every channel is subscribed.
    pub(crate) fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }
}

/// One watcher of one channel; dropping it ends the watching.
#[derive(Debug)]
pub(crate) struct Watcher {
    channel: String,
    signals: broadcast::Receiver<Signal>,
    bus: Bus,
}

impl Watcher {
    /// The next signal; waits for ever when nothing comes. May be dropped at any time.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.signals.recv().await {
            Ok(signal) => signal,
            Err(RecvError::Lagged(_)) => Signal::Dirty,
            // The topic lives as long as its watchers; should it not, nothing more can come.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(topic) = self.bus.shared.topics.lock().get_mut(&self.channel) {
            topic.watchers = topic.watchers.saturating_sub(1);
            if topic.watchers == 0 {
                topic.idle_since = Some(Instant::now());
            }
        }
    }
}

async fn drain(shared: Arc<Shared>) {
    let mut messages = shared.connection.client().message_rx();
    loop {
        match messages.recv().await {
            Ok(message) => {
                let text: Arc<str> = Arc::from(text_of(&message));
                shared.topics.deliver(&message.channel, &text);
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "live messages were lost; watchers read the store again");
                shared.topics.all_dirty();
            }
            // The client was stopped and is started again.
            Err(RecvError::Closed) => {
                tokio::time::sleep(TICK).await;
                messages = shared.connection.client().message_rx();
                shared.topics.all_dirty();
            }
        }
    }
}

fn text_of(message: &Message) -> String {
    match &message.value {
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.as_string().unwrap_or_default(),
    }
}

async fn keep_subscribed(shared: Arc<Shared>) {
    let mut connects = shared.connection.client().reconnect_rx();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = Instant::now();
    loop {
        tokio::select! {
            connected = connects.recv() => {
                if matches!(connected, Err(RecvError::Closed)) {
                    tokio::time::sleep(TICK).await;
                    connects = shared.connection.client().reconnect_rx();
                }
                // A new connection has no subscriptions, whatever we believed.
                shared.topics.none_subscribed();
                shared.topics.all_dirty();
            }
            () = shared.wanted.notified() => {}
            _ = tick.tick() => {}
        }
        if !shared.connection.is_connected() {
            set_connected(&shared, false);
            continue;
        }
        if asked.elapsed() >= HEARTBEAT {
            asked = Instant::now();
            if !is_alive(&shared).await {
                set_connected(&shared, false);
                continue;
            }
        }
        unsubscribe_idle(&shared).await;
        let all = subscribe_pending(&shared).await;
        set_connected(&shared, all);
    }
}

fn set_connected(shared: &Shared, connected: bool) {
    let changed = shared
        .connected
        .send_if_modified(|value| std::mem::replace(value, connected) != connected);
    if changed && !connected {
        shared.topics.all_dirty();
    }
}

/// True when every wanted channel is subscribed.
async fn subscribe_pending(shared: &Shared) -> bool {
    loop {
        let channels = shared.topics.pending();
        if channels.is_empty() {
            return true;
        }
        match subscribe_acknowledged(shared, channels.clone()).await {
            Ok(()) => shared.topics.now_subscribed(&channels),
            Err(fault) => {
                tracing::debug!(%fault, "subscribing failed; trying again");
                return false;
            }
        }
    }
}

/// fred's `subscribe` returns when the command is written. The server answers in order, so its answer to a
/// PING behind it proves that the subscription stands; in a cluster both go to the same node.
async fn subscribe_acknowledged(shared: &Shared, channels: Vec<String>) -> Result<(), QueueError> {
    let client = shared.connection.to_one_node(Patience::Brief);
    measured("subscribe", async move {
        client.subscribe(channels).await?;
        client.ping::<Value>(None).await.map(drop)
    })
    .await
}

async fn unsubscribe_idle(shared: &Shared) {
    let channels = shared.topics.take_idle();
    if channels.is_empty() {
        return;
    }
    if let Err(fault) = shared
        .connection
        .with(Patience::Brief)
        .unsubscribe(channels)
        .await
    {
        // Still subscribed means only that messages come which nobody wants.
        tracing::debug!(%fault, "unsubscribing failed");
    }
}

/// Asks the server; a connection that does not answer is replaced.
async fn is_alive(shared: &Shared) -> bool {
    let asked = shared.connection.with(Patience::Brief).ping::<Value>(None).await;
    let Err(fault) = asked else { return true };
    tracing::debug!(%fault, "the live connection does not answer; replacing it");
    let replaced = tokio::time::timeout(HEARTBEAT, shared.connection.client().force_reconnection()).await;
    if !matches!(replaced, Ok(Ok(()))) {
        tracing::debug!("the live connection could not be replaced yet");
    }
    false
}
