//! The two watches of a worker: one for all tool Jobs, one for all their pods, whatever the number of calls.
//!
//! A watch that fails, or says nothing for longer than a server lets it, begins anew with a list.

use super::calls::Calls;
use super::job::SELECTOR;
use super::seen::{JobSeen, PodSeen};
use super::world::{Kind, News, World};
use crate::log::with_sources;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use std::pin::pin;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The server ends a watch after this time, and it is taken up where it was.
const WATCH_SECONDS: u32 = 240;
/// Longer than that without any word: begin anew.
const IDLE: Duration = Duration::from_secs(290);
/// Pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs both until `stop` fires.
pub async fn watch(calls: Calls, world: World, stop: CancellationToken) {
    let jobs = forever(
        Kind::Jobs,
        &world,
        || {
            let news = watcher(calls.watched::<Job>(), config());
            news.map(|event| event.map(|event| news_of(event, JobSeen::of)))
        },
        World::jobs,
    );
    let pods = forever(
        Kind::Pods,
        &world,
        || {
            let news = watcher(calls.watched::<Pod>(), config());
            news.map(|event| event.map(|event| news_of(event, PodSeen::of)))
        },
        World::pods,
    );
    tokio::select! {
        () = stop.cancelled() => {}
        ((), ()) = futures::future::join(jobs, pods) => {}
    }
}

fn config() -> Config {
    Config::default().labels(SELECTOR).timeout(WATCH_SECONDS)
}

fn news_of<K, T>(event: Event<K>, seen: impl Fn(&K) -> T) -> News<T> {
    match event {
        Event::Apply(object) => News::Apply(seen(&object)),
        Event::Delete(object) => News::Delete(seen(&object)),
        Event::Init => News::ListBegins,
        Event::InitApply(object) => News::Listed(seen(&object)),
        Event::InitDone => News::ListEnds,
    }
}

async fn forever<S, T>(kind: Kind, world: &World, begin: impl Fn() -> S, tell: fn(&World, News<T>))
where
    S: Stream<Item = Result<News<T>, Error>>,
    T: PartialEq,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let mut stream = pin!(begin());
        loop {
            match tokio::time::timeout(IDLE, stream.next()).await {
                Ok(Some(Ok(news))) => {
                    if news == News::ListEnds {
                        pause = FIRST_PAUSE;
                    }
                    tell(world, news);
                }
                Ok(Some(Err(error))) => {
                    tracing::warn!(?kind, error = %with_sources(&error), "watch of tool jobs broke off");
                    break;
                }
                Ok(None) => break,
                Err(_) => {
                    tracing::debug!(?kind, "watch of tool jobs said nothing, beginning anew");
                    break;
                }
            }
        }
        world.lost(kind);
        let jitter = 0.5 + rand::random::<f64>() / 2.0;
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
