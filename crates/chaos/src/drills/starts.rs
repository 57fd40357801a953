//! Starts that come at a steady rate, each tried once, while a drill breaks something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::figure::{Figures, quantile};
use super::scene::Starter;

/// The starts under way.
#[derive(Debug)]
pub struct Starts {
    over: Arc<AtomicBool>,
    task: JoinHandle<Vec<(f64, Result<(), String>)>>,
}

impl Starts {
    /// `per_second` runs of these items from now on.
    pub fn begin(starter: &Starter, per_second: u32, items: &[Value]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (starter, items, asked) = (starter.clone(), items.to_vec(), Arc::clone(&over));
        let task = tokio::spawn(async move {
            let mut tick = interval(Duration::from_secs(1) / per_second);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut tries = JoinSet::new();
            while !asked.load(Ordering::Relaxed) {
                tick.tick().await;
                let (starter, items) = (starter.clone(), items.clone());
                tries.spawn(async move {
                    let begun = Instant::now();
                    let answer = starter.try_once(&items).await;
                    (begun.elapsed().as_secs_f64() * 1000.0, answer)
                });
            }
            tries.join_all().await
        });
        Self { over, task }
    }

    /// No more of them; tells how they were answered.
    pub async fn end(self, figures: &mut Figures) {
        self.over.store(true, Ordering::Relaxed);
        let answers = self.task.await.expect("the starts do not panic");
        let times: Vec<f64> = answers.iter().map(|(ms, _)| *ms).collect();
        let refused: Vec<&String> = answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref().err())
            .collect();
        for text in refused.iter().take(3) {
            eprintln!("{text}");
        }
        figures.told("starts tried (create and start)", answers.len() as f64, "");
        figures.none("starts that were not answered with 200", refused.len());
        figures.told("create and start, p99", quantile(&times, 0.99), "ms");
    }
}
