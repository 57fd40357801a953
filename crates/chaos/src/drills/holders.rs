//! Which worker holds which runs.

use std::collections::HashMap;

use super::scene::Scene;

/// Indices of the workers that hold runs, those with most runs first, with the ids of these runs.
pub async fn holders(scene: &Scene) -> Vec<(usize, Vec<String>)> {
    const HELD: &str = "SELECT id::text, lease_owner FROM agent_runs
        WHERE lease_expires_at > clock_timestamp() AND status = 'executing'";
    let mut by_pid: HashMap<String, Vec<String>> = HashMap::new();
    for row in scene.sql().insist(HELD, &[]).await {
        let owner: String = row.get(1);
        // Host, process id and a random part.
        let pid = owner.rsplit('-').nth(1).unwrap_or_default();
        by_pid.entry(pid.to_owned()).or_default().push(row.get(0));
    }
    let workers = scene.stage.system.workers.iter().enumerate();
    let held = workers.filter_map(|(index, worker)| {
        let runs = by_pid.remove(&worker.pid()?.to_string())?;
        Some((index, runs))
    });
    let mut held: Vec<_> = held.collect();
    held.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.len()));
    held
}
