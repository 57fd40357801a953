//! Short forms of the drills that no other test plays; the long ones are `scripts/ci/drills.sh`.

use chaos::drills::figure::{Figures, table};
use chaos::drills::{Place, flushall, stopped};

use super::{ONE, dir, remove};

fn passed(figures: &Figures, place: &Place) {
    let text = table(&figures.all);
    println!("{text}");
    assert!(
        figures.all.iter().all(|figure| figure.pass),
        "{text}\nkept: {}",
        place.dir.display()
    );
    remove(&place.dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn after_flushall_every_run_is_put_back_and_none_is_done_twice() {
    let _one = ONE.lock().await;
    let place = Place::at(&dir("flushall"));
    let figures = flushall::run(&place, flushall::Size::SHORT).await;
    passed(&figures, &place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn a_worker_that_was_stopped_for_longer_than_its_lease_writes_nothing() {
    let _one = ONE.lock().await;
    let place = Place::at(&dir("stopped"));
    let figures = stopped::run(&place, stopped::Size::SHORT).await;
    passed(&figures, &place);
}
