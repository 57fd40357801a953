//! What must never happen, for builds that are broken on purpose (see [`domain::breakage`]).

use crate::connection::{Patience, measured};
use crate::keys::ListName;
use crate::reply::arg;
use crate::store::Store;
use fred::interfaces::{HashesInterface, ListInterface};
use fred::types::Value;
use std::time::Duration;

/// How long a popped job is nowhere.
const GAP: Duration = Duration::from_millis(300);

/// Takes a job out of its list and only later puts it where it is claimed: a crash in between loses it.
pub(crate) async fn pop_before_claim(store: &Store) {
    let key = store.keys().list(ListName::Pending);
    let client = store.connection().with(Patience::Normal);
    let popped: Result<Option<Vec<u8>>, _> = measured("claim", client.rpop(&key, None)).await;
    let Ok(Some(text)) = popped else { return };
    tokio::time::sleep(GAP).await;
    let pushed: Result<Value, _> = measured("claim", client.rpush(&key, text)).await;
    if let Err(error) = pushed {
        tracing::warn!(%error, "popped job lost");
    }
}

/// Replaces the claim's epoch by whatever the present one is, so that a settlement is never stale.
pub(crate) async fn with_present_epoch(store: &Store, mut args: Vec<Value>) -> Vec<Value> {
    let client = store.connection().with(Patience::Normal);
    let Some(id) = args.first().and_then(Value::as_string) else {
        return args;
    };
    let meta: Result<Option<String>, _> =
        measured("settle", client.hget(store.keys().named("meta"), id)).await;
    let epoch = meta
        .ok()
        .flatten()
        .and_then(|meta| meta.split('|').next().map(str::to_owned));
    if let (Some(epoch), Some(place)) = (epoch, args.get_mut(1)) {
        *place = arg(epoch);
    }
    args
}
