//! Is every live run in the list where it belongs? Postgres says where, Redis is looked at.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::facts::{Job, Lists};
use crate::resp::Client;
use crate::sql::Sql;

const LOOK_EVERY: Duration = Duration::from_millis(200);
const LIVE: &str = "SELECT id::text, job_id::text, state_version, priority,
        coalesce(lease_expires_at > clock_timestamp(), false) AS leased,
        coalesce(next_retry_at > clock_timestamp(), false) AS retrying, next_retry_at IS NOT NULL AS retried
    FROM agent_runs WHERE status IN ('queued', 'planning', 'executing') AND origin = 'agent_api'";
const VERSIONS: &str = "SELECT id::text, state_version FROM agent_runs
    WHERE status IN ('queued', 'planning', 'executing') AND origin = 'agent_api'";

/// One look at all live runs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Placement {
    pub live: usize,
    /// Runs that are in no list, in two, in a wrong one, or without their lease or retry time.
    pub wrong: Vec<String>,
}

struct Wanted {
    job_id: String,
    version: i64,
    lists: Vec<&'static str>,
}

fn wanted(row: &tokio_postgres::Row) -> Wanted {
    let home = if row.get::<_, i32>("priority") > 0 {
        "high_priority"
    } else {
        "pending"
    };
    let flag = |name: &str| row.get::<_, bool>(name);
    let lists = match (flag("leased"), flag("retrying"), flag("retried")) {
        (true, ..) => vec!["processing"],
        (_, true, _) => vec!["retry"],
        // Its time has just come.
        (_, _, true) => vec!["retry", home, "processing"],
        // A claim is in Redis a moment before it is in Postgres.
        _ => vec![home, "processing"],
    };
    Wanted {
        job_id: row.get::<_, Option<String>>(1).unwrap_or_default(),
        version: row.get(2),
        lists,
    }
}

/// List and job of every element, by run.
fn places(lists: &Lists) -> HashMap<&str, Vec<(&'static str, &Job)>> {
    let mut places: HashMap<&str, Vec<_>> = HashMap::new();
    for (name, jobs) in lists.live() {
        for job in jobs {
            places.entry(&job.run_id).or_default().push((name, job));
        }
    }
    places
}

/// Looks at everything once; a run that changed meanwhile is left out. `None` when a store does not answer.
pub async fn look(sql: &mut Sql, redis_port: u16) -> Option<Placement> {
    let before = sql.rows(LIVE, &[]).await.ok()?;
    let mut client = Client::connect(redis_port).await.ok()?;
    let lists = Lists::read(&mut client).await.ok()?;
    let after = sql.rows(VERSIONS, &[]).await.ok()?;
    let after: HashMap<String, i64> = after.iter().map(|row| (row.get(0), row.get(1))).collect();
    let places = places(&lists);
    let lease: HashSet<&str> = lists.lease.iter().map(String::as_str).collect();
    let due: HashSet<&str> = lists.due.iter().map(String::as_str).collect();
    let mut placement = Placement::default();
    for row in &before {
        let (run_id, wanted): (String, Wanted) = (row.get(0), wanted(row));
        if after.get(&run_id) != Some(&wanted.version) {
            continue;
        }
        placement.live += 1;
        let found = places.get(run_id.as_str()).map_or(&[][..], Vec::as_slice);
        let right = matches!(found, [(list, job)] if job.job_id == wanted.job_id
            && wanted.lists.contains(list)
            && (*list != "processing" || lease.contains(job.job_id.as_str()))
            && (*list != "retry" || due.contains(job.job_id.as_str())));
        if !right {
            let lists: Vec<_> = found.iter().map(|(list, _)| *list).collect();
            placement
                .wrong
                .push(format!("{run_id} is in {lists:?}, wanted {:?}", wanted.lists));
        }
    }
    Some(placement)
}

/// How the lists came back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recovery {
    /// Until every live run is where it belongs, in two looks one after the other: up to the end of the first of them.
    /// Not a number when that did not come in time.
    pub seconds: f64,
    /// Most runs seen in a wrong place at once. 0: everything was back before the first look.
    pub most_wrong: usize,
}

/// Looks until every live run is where it belongs, at most for `limit`.
pub async fn recovery(database_url: &str, redis_port: u16, limit: Duration) -> Recovery {
    let mut sql = Sql::new(database_url);
    let begun = Instant::now();
    let (mut right_since, mut most_wrong, mut last) = (None, 0, vec![]);
    while begun.elapsed() < limit {
        let seen = look(&mut sql, redis_port).await;
        let right = seen.as_ref().is_some_and(|seen| seen.wrong.is_empty());
        if let Some(seen) = seen {
            most_wrong = most_wrong.max(seen.wrong.len());
            last = seen.wrong;
        }
        match (right, right_since) {
            (true, Some(seconds)) => return Recovery { seconds, most_wrong },
            (true, None) => right_since = Some(begun.elapsed().as_secs_f64()),
            (false, _) => right_since = None,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    eprintln!("not in place after {limit:?}: {:?}", &last[..last.len().min(5)]);
    Recovery {
        seconds: f64::NAN,
        most_wrong,
    }
}
