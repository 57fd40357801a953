use crate::rounds::pod;
use crate::setup::{SPEC, VALID, start};
use std::time::Instant;

/// Prints a table for people. Few files, for every test run; `TRANSPORT_FILES=10000` with a release build gives the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_files_go_up_and_down() {
    let files = std::env::var("TRANSPORT_FILES").map_or(1500, |files| files.parse().expect("a number"));
    let setup = start().await;
    let request = setup.step(1);
    let played = pod(&setup, &request, "uid-1").await;
    let record = played
        .run(|dir| {
            for number in 0..files {
                let sub = dir.join(format!("dir{}", number % 100));
                std::fs::create_dir_all(&sub).unwrap();
                std::fs::write(sub.join(number.to_string()), format!("content {number}")).unwrap();
            }
        })
        .await;
    let began = Instant::now();
    let output = setup.transport.collect(&request, &record).await.unwrap();
    println!("up, applied file by file   {:>6} ms", began.elapsed().as_millis());
    assert_eq!(output.artifacts.len(), files);
    let again = setup.step(2);
    let began = Instant::now();
    let prepared = setup.transport.prepare(&again, SPEC).await.unwrap();
    setup
        .transport
        .order(&prepared, &again, "uid-2", VALID)
        .await
        .unwrap();
    println!("down, from the delta       {:>6} ms", began.elapsed().as_millis());
    assert_eq!(prepared.len(), files);
    assert!(setup.packs().await.is_empty(), "the delta serves as it is");
    setup.put(".agent/packs/index.json", b"{}").await;
    let began = Instant::now();
    let prepared = setup.transport.prepare(&again, SPEC).await.unwrap();
    println!("down, every file read      {:>6} ms", began.elapsed().as_millis());
    assert_eq!(prepared.len(), files);
}
