//! `agentctl workspace gc`: deletes files of ended runs, by the rules of the workers or by age.

use super::queue::database;
use crate::args::GcArgs;
use crate::console::Console;
use crate::failure::{Code, Failure};
use crate::place::Place;
use crate::render;
use bootstrap::settings::{Faults, Lookup, Validate, try_parse};
use domain::clock::wire_time;
use domain::{Clock as _, SystemClock};
use jiff::Timestamp;
use runs::Retention;
use serde_json::{Value, json};
use std::sync::Arc;
use worker::retention::{Due, Orphan, RetentionError, RetentionOptions, Sweeper};
use workspace::{Amount, S3Options, Workspaces};

/// Runs that are counted or deleted together.
const BATCH: u32 = 500;

#[derive(Debug, clap::Parser)]
struct Settings {
    #[command(flatten)]
    s3: S3Options,
    #[command(flatten)]
    retention: RetentionOptions,
}

impl Validate for Settings {
    fn faults(&self) -> Faults {
        Faults::default()
    }
}

/// Does what the command line says.
pub async fn gc(console: Console, place: &Place, args: &GcArgs) -> Result<Code, Failure> {
    let sweeper = sweeper(place)?;
    let before = args
        .older_than
        .map(|age| SystemClock.now().checked_sub(age).unwrap_or_default());
    if before.is_none() && !args.orphans && !sweeper.rules.deletes_files() {
        console.note("nothing is ever past its time: set WORKSPACE_RETENTION_*, or say --older-than 30d");
    }
    let mut collector = Collector {
        console,
        sweeper,
        args,
        rows: vec![],
        total: Amount::default(),
    };
    collector
        .runs(before.map(|at| at.max(Timestamp::UNIX_EPOCH)))
        .await?;
    if args.orphans {
        collector.orphans().await?;
    }
    collector.finish()
}

fn sweeper(place: &Place) -> Result<Sweeper, Failure> {
    for name in ["S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"] {
        place.need(name)?;
    }
    let lookup = Lookup::from_pairs(place.values().clone());
    let settings = try_parse::<Settings>(["workspace".into()], &lookup).map_err(|refusal| {
        Failure::new("the settings of the files cannot be used").because(format!("{refusal:?}"))
    })?;
    Ok(Sweeper {
        runs: Retention::new(database(place)?),
        workspaces: Workspaces::from_options(&settings.s3),
        rules: settings.retention,
        clock: Arc::new(SystemClock),
    })
}

fn failed(error: RetentionError) -> Failure {
    Failure::new("files could not be looked after")
        .why(&error)
        .fix("see `agentctl doctor`; what was begun is finished by the next call")
}

/// One call of the command.
struct Collector<'a> {
    console: Console,
    sweeper: Sweeper,
    args: &'a GcArgs,
    rows: Vec<Vec<String>>,
    total: Amount,
}

impl Collector<'_> {
    async fn runs(&mut self, before: Option<Timestamp>) -> Result<(), Failure> {
        while self.sweeper.measure(BATCH).await.map_err(failed)? >= BATCH as usize {}
        if self.args.dry_run {
            let due = self.sweeper.due(before, u32::MAX).await.map_err(failed)?;
            return due.iter().try_for_each(|due| self.show(due, amount_of(due)));
        }
        self.sweeper.resume().await.map_err(failed)?;
        loop {
            let due = self.sweeper.due(before, BATCH).await.map_err(failed)?;
            let mut deleted = 0;
            for due in &due {
                if self.sweeper.expire(due).await.map_err(failed)?.is_some() {
                    deleted += 1;
                    self.show(due, amount_of(due))?;
                }
            }
            // What is left then, another one has taken.
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    async fn orphans(&mut self) -> Result<(), Failure> {
        for orphan in self.sweeper.orphans().await.map_err(failed)? {
            if !self.args.dry_run {
                self.sweeper.remove(&orphan).await.map_err(failed)?;
            }
            self.show_orphan(&orphan)?;
        }
        Ok(())
    }

    fn show(&mut self, due: &Due, amount: Amount) -> Result<(), Failure> {
        let run = &due.run;
        let ended = wire_time(run.ended_at);
        if self.args.json {
            let line = json!({"run_id": run.run_id, "user_id": run.user_id, "status": run.status, "ended_at": ended,
                "reason": due.reason, "files": amount.files, "bytes": amount.bytes});
            self.console.out(&line.to_string())?;
        }
        let age = SystemClock.now().duration_since(run.ended_at).as_hours() / 24;
        let words = [run.status.to_string(), format!("{age} d"), due.reason.to_owned()];
        self.row(run.run_id.to_string(), words, amount);
        Ok(())
    }

    fn show_orphan(&mut self, orphan: &Orphan) -> Result<(), Failure> {
        let (run, amount) = (orphan.stored.run_id, orphan.amount);
        if self.args.json {
            let line = json!({"run_id": run, "user_id": null, "status": null, "ended_at": null, "reason": "orphan",
                "files": amount.files, "bytes": amount.bytes, "prefix": orphan.stored.prefix});
            self.console.out(&line.to_string())?;
        }
        let age = SystemClock.now().duration_since(orphan.newest).as_hours() / 24;
        let words = ["unknown".to_owned(), format!("{age} d"), "orphan".to_owned()];
        self.row(run.to_string(), words, amount);
        Ok(())
    }

    fn row(&mut self, run: String, words: [String; 3], amount: Amount) {
        self.total += amount;
        let mut row = vec![run];
        row.extend(words);
        row.extend([format!("{} file(s)", amount.files), render::size(amount.bytes)]);
        self.rows.push(row);
    }

    fn finish(&self) -> Result<Code, Failure> {
        let (runs, total) = (self.rows.len(), self.total);
        if self.args.json {
            let sum: Value = json!({"dry_run": self.args.dry_run,
                "total": {"runs": runs, "files": total.files, "bytes": total.bytes}});
            self.console.out(&sum.to_string())?;
            return Ok(Code::Ok);
        }
        render::table(&self.rows)
            .iter()
            .try_for_each(|line| self.console.out(line))?;
        let verb = if self.args.dry_run {
            "would be deleted"
        } else {
            "deleted"
        };
        self.console.out(&format!(
            "{verb}: {} file(s) of {runs} run(s), {}",
            total.files,
            render::size(total.bytes)
        ))?;
        Ok(Code::Ok)
    }
}

/// As it was counted; what is ours besides is not the user's to hear of.
fn amount_of(due: &Due) -> Amount {
    Amount {
        files: due.run.files,
        bytes: due.run.bytes,
    }
}
