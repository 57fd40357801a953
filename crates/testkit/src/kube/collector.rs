//! The garbage collector: dependents go when their last owner has gone; Foreground and Orphan deletions are carried out.

use super::kind::Kind;
use super::store::State;
use super::{Cluster, object, verbs};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// What comes within this time is looked at together.
const COALESCE: Duration = Duration::from_millis(4);

pub(super) async fn run(cluster: Arc<Cluster>) {
    let mut changed = cluster.changes();
    loop {
        changed.mark_unchanged();
        if cluster.read(finds_something) {
            tokio::time::sleep(cluster.options.delays.collect).await;
            cluster.write(collect);
        }
        if changed.changed().await.is_err() {
            return;
        }
        // Many changes, one look.
        tokio::time::sleep(COALESCE).await;
    }
}

fn finds_something(state: &State) -> bool {
    state
        .all()
        .any(|(kind, found)| is_orphan(state, found) || (kind == Kind::Job && object::is_terminating(found)))
}

/// Has owners in its metadata, and none of them is there; what is already going is left alone.
fn is_orphan(state: &State, found: &Value) -> bool {
    let mut owners = object::owners(found).peekable();
    owners.peek().is_some() && !object::is_terminating(found) && owners.all(|uid| !state.has_uid(uid))
}

fn collect(state: &mut State) {
    let jobs: Vec<Value> = state
        .list(Kind::Job, "")
        .filter(|job| object::is_terminating(job))
        .cloned()
        .collect();
    for job in jobs {
        let uid = object::uid(&job);
        let dependents: Vec<(Kind, Value)> = state
            .all()
            .filter(|(_, found)| object::owners(found).any(|owner| owner == uid))
            .map(|(kind, found)| (kind, found.clone()))
            .collect();
        if job["metadata"]["finalizers"][0] == "orphan" {
            for (kind, found) in &dependents {
                state.update(*kind, object::uid(found), |found| {
                    if let Some(meta) = found["metadata"].as_object_mut() {
                        meta.shift_remove("ownerReferences");
                    }
                });
            }
            state.remove(Kind::Job, uid);
            continue;
        }
        for (kind, found) in &dependents {
            remove(state, *kind, found);
        }
        // Foreground: it stays until they are gone.
        if dependents.is_empty() {
            state.remove(Kind::Job, uid);
        }
    }
    let orphans: Vec<(Kind, Value)> = state
        .all()
        .filter(|(_, found)| is_orphan(state, found))
        .map(|(kind, found)| (kind, found.clone()))
        .collect();
    for (kind, found) in orphans {
        remove(state, kind, &found);
    }
}

fn remove(state: &mut State, kind: Kind, found: &Value) {
    if kind == Kind::Pod {
        if !object::is_terminating(found) {
            verbs::delete_pod(state, found, None);
        }
    } else {
        state.remove(kind, object::uid(found));
    }
}
