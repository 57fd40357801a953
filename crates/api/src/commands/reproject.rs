//! `agent-api reproject`: checkpoints, summaries and drift of runs, compared with their events or made anew.

use super::{FAILED, failed, store};
use crate::error::chain;
use bootstrap::settings::exit;
use clap::Args;
use domain::RunId;
use jiff::Timestamp;
use runs::reprojection::{Outcome, Plan, Selection, reproject as treat, select};
use runs::{DbOptions, StoreError};
use std::io::{self, Write as _};

/// Which runs, and what to do with them.
#[derive(Debug, Args)]
pub struct ReprojectArgs {
    /// Only this run.
    #[arg(long, value_name = "ID")]
    run_id: Option<RunId>,
    /// Only runs of this thread.
    #[arg(long, value_name = "ID")]
    thread_id: Option<String>,
    /// Only runs whose last event is not older (ISO-8601 UTC).
    #[arg(long, value_name = "T")]
    since: Option<String>,
    /// Only runs whose last event is not younger (ISO-8601 UTC).
    #[arg(long, value_name = "T")]
    until: Option<String>,
    /// At most this many runs, the oldest first.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// Change nothing, tell what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Make anew only what differs from the events.
    #[arg(long)]
    reconcile: bool,
    /// With --reconcile: tell what differs and leave it.
    #[arg(long)]
    no_repair: bool,
}

impl ReprojectArgs {
    fn selection(&self) -> Result<Selection, String> {
        Ok(Selection {
            run_id: self.run_id,
            thread_id: self.thread_id.clone(),
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
            limit: self.limit,
        })
    }

    fn plan(&self) -> Plan {
        Plan {
            dry_run: self.dry_run,
            reconcile: self.reconcile,
            repair: !self.no_repair,
        }
    }
}

fn time(name: &str, given: Option<&str>) -> Result<Option<Timestamp>, String> {
    let Some(text) = given else { return Ok(None) };
    let wrong = |_| format!("invalid {name}: {text} (expected ISO-8601 UTC)");
    text.trim().parse().map(Some).map_err(wrong)
}

/// A run and what came of it.
type Treated = (RunId, Result<Outcome, StoreError>);

/// Treats the selected runs one after the other and prints the summary; a run that fails does not stop the others.
pub async fn reproject(options: &DbOptions, args: &ReprojectArgs) -> io::Result<u8> {
    let selection = match args.selection() {
        Ok(selection) => selection,
        Err(fault) => {
            writeln!(io::stderr(), "{fault}")?;
            return Ok(FAILED);
        }
    };
    let db = match store(options)? {
        Ok(db) => db,
        Err(code) => return Ok(code),
    };
    let ids = match select(&db, &selection).await {
        Ok(ids) => ids,
        Err(error) => return failed(&error),
    };
    let mut treated = Vec::with_capacity(ids.len());
    for run_id in ids {
        treated.push((run_id, treat(&db, run_id, args.plan()).await));
    }
    write_summary(&treated, args.dry_run)
}

fn write_summary(treated: &[Treated], dry_run: bool) -> io::Result<u8> {
    let outcomes = treated.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    let repaired = outcomes.filter(|outcome| outcome.action.repairs()).count();
    let (total, mut out) = (treated.len(), io::stdout().lock());
    writeln!(out, "Reprojection summary:")?;
    writeln!(out, "  total_runs: {total}")?;
    writeln!(out, "  processed_runs: {total}")?;
    writeln!(out, "  repaired_runs: {repaired}")?;
    writeln!(out, "  dry_run: {dry_run}")?;
    let mut code = exit::OK;
    for (run_id, outcome) in treated {
        match outcome {
            Ok(outcome) => write_outcome(&mut out, *run_id, outcome)?,
            Err(error) => {
                code = FAILED;
                let fault = chain(error);
                writeln!(
                    out,
                    "  run={run_id} action=reproject_failed:{fault} drift=true watermark=0/0"
                )?;
            }
        }
    }
    Ok(code)
}

/// The reasons go to stderr: the lines of stdout have a fixed form.
fn write_outcome(out: &mut impl io::Write, run_id: RunId, outcome: &Outcome) -> io::Result<()> {
    let Outcome {
        action,
        drift,
        reasons,
        watermark,
        latest,
    } = outcome;
    let action = action.as_str();
    writeln!(
        out,
        "  run={run_id} action={action} drift={drift} watermark={watermark}/{latest}"
    )?;
    if !reasons.is_empty() {
        writeln!(io::stderr(), "drift run={run_id} reasons={}", reasons.join(","))?;
    }
    Ok(())
}
