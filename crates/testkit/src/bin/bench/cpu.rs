//! CPU time and commits: figures that other work on the machine disturbs less than times do.

use std::path::Path;

use testkit::Postgres;

use crate::numbers::{Figure, median};
use crate::system::{Stores, System};

/// Of `/proc/PID/stat`; the same on every Linux.
const TICKS_PER_S: f64 = 100.0;
/// What follows an answer (deletions, announcements) is done after this time.
const REST: std::time::Duration = std::time::Duration::from_millis(200);

/// Seconds on a processor and writing transactions, since the start of each process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    api_s: f64,
    workers_s: f64,
    postgres_s: f64,
    redis_s: f64,
    commits: f64,
}

impl Spent {
    /// After a moment of rest.
    pub(crate) async fn by(system: &System, stores: &Stores) -> Self {
        tokio::time::sleep(REST).await;
        Self {
            api_s: ticks(system.api.pid()) / TICKS_PER_S,
            workers_s: system
                .workers
                .iter()
                .map(|worker| ticks(worker.pid()))
                .sum::<f64>()
                / TICKS_PER_S,
            postgres_s: of_postgres(&stores.postgres) / TICKS_PER_S,
            redis_s: ticks(stores.redis.pid()) / TICKS_PER_S,
            commits: system.commits().await,
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            api_s: self.api_s - before.api_s,
            workers_s: self.workers_s - before.workers_s,
            postgres_s: self.postgres_s - before.postgres_s,
            redis_s: self.redis_s - before.redis_s,
            commits: self.commits - before.commits,
        }
    }

    /// Milliseconds per operation of each process, and writing commits per operation; medians of the rounds.
    pub(crate) fn figures(name: &str, rounds: &[Self], operations: usize) -> Vec<Figure> {
        let each = |pick: fn(&Self) -> f64| median(rounds.iter().map(pick).collect()) / operations as f64;
        let ms = |who: &str, s: f64| Figure::new(format!("{name}: CPU of {who}"), "ms", s * 1e3);
        vec![
            ms("api", each(|spent| spent.api_s)),
            ms("workers", each(|spent| spent.workers_s)),
            ms("postgres", each(|spent| spent.postgres_s)),
            ms("redis", each(|spent| spent.redis_s)),
            Figure::new(
                format!("{name}: writing commits"),
                "",
                each(|spent| spent.commits),
            ),
        ]
    }
}

/// The server, its sessions, and the sessions that have ended.
fn of_postgres(postgres: &Postgres) -> f64 {
    let server = postgres.pid();
    let sessions: f64 = children(server).into_iter().map(ticks).sum();
    ticks(server) + ended_children(server) + sessions
}

fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// User and system time; 0 of a process that is gone.
pub(crate) fn ticks(pid: u32) -> f64 {
    fields(pid).map_or(0.0, |fields| fields[11] + fields[12])
}

fn ended_children(pid: u32) -> f64 {
    fields(pid).map_or(0.0, |fields| fields[13] + fields[14])
}

/// What follows the name, which may hold blanks; letters as 0.
fn fields(pid: u32) -> Option<Vec<f64>> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<f64> = rest
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    (fields.len() > 14).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_spent_something_and_a_gone_one_nothing() {
        assert!(fields(std::process::id()).is_some());
        assert!(ticks(u32::MAX).abs() < f64::EPSILON);
    }
}
