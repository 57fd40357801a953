//! The suite itself as a test: a run of fixed seed finds nothing, and each promise broken on purpose is found out.
//!
//! One test at a time: each starts whole systems.

mod drills;

use std::path::PathBuf;
use std::time::Duration;

use chaos::campaign::{self, Order};
use chaos::directed::{Breakage, play};
use chaos::nemesis::Plan;
use chaos::report::{self, Report};
use tokio::sync::Mutex;

const SEED: u64 = 20_261_121;
/// Load and faults; starting, settling and checking come on top.
const TIME: Duration = Duration::from_secs(160);
/// Systems of the directed schedules that run side by side.
const AT_ONCE: usize = 3;

static ONE: Mutex<()> = Mutex::const_new(());

fn dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("agent-chaos-test-{}-{name}", std::process::id()))
}

/// Kept when something is wrong, so that the history can be read.
fn remove(dir: &std::path::Path) {
    std::fs::remove_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_three_minute_run_with_a_fixed_seed_breaks_no_promise() {
    let _one = ONE.lock().await;
    let order = Order {
        seed: SEED,
        time: TIME,
        clients: 12,
        plan: Plan::all(),
        dir: dir("whole"),
    };
    let found = campaign::run(&order).await;
    let report = Report::of(SEED, TIME, &found);
    println!("{}", report.table(&found.violations));
    let told = report::violations(&found.violations, &found.records);
    assert!(
        found.violations.is_empty(),
        "{told}\nkept: {}",
        order.dir.display()
    );
    assert!(
        report.acknowledged >= 10 && report.total_faults() > 500,
        "{report:?}"
    );
    remove(&order.dir);
}

/// The rules that found something, by breakage.
async fn found_by(broken: bool) -> Vec<(Breakage, Vec<String>)> {
    let mut all = Vec::new();
    for some in Breakage::ALL.chunks(AT_ONCE) {
        let plays = some.iter().map(|aim| {
            let aim = *aim;
            tokio::spawn(async move {
                let dir = dir(&format!("{}-{broken}", aim.as_str()));
                let (violations, records) = play(aim, broken, &dir).await;
                let as_expected = violations.is_empty() ^ broken;
                if as_expected {
                    remove(&dir);
                } else {
                    println!(
                        "{}: {}\nkept: {}",
                        aim.as_str(),
                        report::violations(&violations, &records),
                        dir.display()
                    );
                }
                let rules = violations.iter().map(|violation| violation.rule.to_owned());
                (aim, rules.collect::<Vec<_>>())
            })
        });
        for play in plays.collect::<Vec<_>>() {
            all.push(play.await.expect("a schedule does not panic"));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn each_promise_that_is_broken_on_purpose_is_found_out() {
    let _one = ONE.lock().await;
    let expected = |aim: Breakage| match aim {
        Breakage::NoFencing => "stale_write_accepted",
        Breakage::NonAtomicClaim | Breakage::SettleWithoutEpoch | Breakage::PushBeforeCommit => {
            "live_run_misplaced"
        }
        Breakage::NoReaper => "run_never_ends",
        Breakage::ResultBeforeStored => "answered_step_called_again",
    };
    for (aim, rules) in found_by(true).await {
        assert!(
            rules.iter().any(|rule| rule == expected(aim)),
            "{}: {rules:?}",
            aim.as_str()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn the_same_schedules_without_a_breakage_find_nothing() {
    let _one = ONE.lock().await;
    for (aim, rules) in found_by(false).await {
        assert!(rules.is_empty(), "{}: {rules:?}", aim.as_str());
    }
}
