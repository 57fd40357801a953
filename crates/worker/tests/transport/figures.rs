use crate::rounds::pod;
use crate::setup::{SPEC, VALID, start};
use std::time::Instant;

/// Prints a table; the figures themselves are for people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_files_go_down_and_up() {
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let record = played
        .run(|dir| {
            for number in 0..10_000 {
                let sub = dir.join(format!("dir{}", number % 100));
                std::fs::create_dir_all(&sub).unwrap();
                std::fs::write(sub.join(number.to_string()), format!("content {number}")).unwrap();
            }
        })
        .await;
    let began = Instant::now();
    let output = setup.transport.collect(&request, &record).await.unwrap();
    println!("up, applied file by file   {:>6} ms", began.elapsed().as_millis());
    assert_eq!(output.artifacts.len(), 10_000);
    let again = setup.step(2);
    let began = Instant::now();
    let prepared = setup.transport.prepare(&again, SPEC).await.unwrap();
    setup
        .transport
        .order(&prepared, &again, "uid-2", VALID)
        .await
        .unwrap();
    println!("down, from the delta       {:>6} ms", began.elapsed().as_millis());
    assert_eq!(prepared.len(), 10_000);
    setup.put(".agent/packs/index.json", b"{}").await;
    let began = Instant::now();
    let prepared = setup.transport.prepare(&again, SPEC).await.unwrap();
    println!("down, every file read      {:>6} ms", began.elapsed().as_millis());
    assert_eq!(prepared.len(), 10_000);
}
