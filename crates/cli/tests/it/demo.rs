//! The demo is a test of everything at once: it ends with 0 only when all of it held.

use crate::home::Home;

#[tokio::test]
async fn the_demo_survives_the_loss_of_its_worker_asks_once_and_leaves_a_report_and_a_chart() {
    let home = Home::new();
    home.up();
    let worker = home.child("worker-1").unwrap();
    let said = home.ok(&["demo"]);
    assert_ne!(home.child("worker-1"), Some(worker), "the worker was killed");
    for act in [
        "Now its worker is killed",
        "It asks: ",
        "Total: 117. Best month: May.",
        "All of it held",
    ] {
        assert!(said.contains(act), "{act} is missing: {said}");
    }
    home.ok(&["down"]);
    home.is_empty_soon().await;
}
