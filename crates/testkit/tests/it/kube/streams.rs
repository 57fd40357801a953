//! Watches and logs.

use super::setup::{Cluster, JOBS, LIMIT, PODS, phase};
use reqwest::{Method, Response};
use serde_json::Value;
use std::time::Duration;
use testkit::kube::{Delays, Fault, On, Options};
use tokio::time::timeout;

/// Whole lines of a stream until something holds; the error is the end of the stream, with what came after the last line end.
async fn lines_until(
    response: &mut Response,
    rest: &mut String,
    mut holds: impl FnMut(&str) -> bool,
) -> Result<(), (bool, String)> {
    loop {
        while let Some((line, after)) = rest.split_once('\n') {
            let (line, after) = (line.to_owned(), after.to_owned());
            *rest = after;
            if holds(&line) {
                return Ok(());
            }
        }
        match timeout(LIMIT, response.chunk())
            .await
            .expect("the stream goes on")
        {
            Ok(Some(bytes)) => rest.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(None) => return Err((true, rest.clone())),
            Err(_) => return Err((false, rest.clone())),
        }
    }
}

async fn watch(cluster: &Cluster, query: &str) -> Response {
    let path = format!("{JOBS}?watch=true&allowWatchBookmarks=true{query}");
    let response = cluster.ask(Method::GET, &path, None).await.expect("an answer");
    assert_eq!(response.status(), 200);
    response
}

fn event(line: &str) -> (String, Value) {
    let event: Value = serde_json::from_str(line).expect("an event");
    (
        event["type"].as_str().expect("a type").to_owned(),
        event["object"].clone(),
    )
}

#[tokio::test]
async fn a_watch_from_a_list_misses_nothing_and_a_streaming_list_says_where_it_ends() {
    let cluster = Cluster::start().await;
    cluster.api.set_room(false);
    cluster.run("before", "true").await;
    let (_, list) = cluster.get(JOBS).await;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    cluster.run("after", "true").await;
    let mut stream = watch(
        &cluster,
        &format!("&resourceVersion={version}&labelSelector=app%3Dagent-tool"),
    )
    .await;
    let mut seen = Vec::new();
    lines_until(&mut stream, &mut String::new(), |line| {
        let (kind, object) = event(line);
        seen.push((kind.clone(), object["metadata"]["name"].clone()));
        kind == "ADDED"
    })
    .await
    .expect("it comes");
    assert!(seen.contains(&("ADDED".to_owned(), "after".into())), "{seen:?}");

    let mut stream = watch(
        &cluster,
        "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
    )
    .await;
    let mut names = Vec::new();
    lines_until(&mut stream, &mut String::new(), |line| {
        let (kind, object) = event(line);
        if kind == "ADDED" {
            names.push(object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
        kind == "BOOKMARK" && object["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
    })
    .await
    .expect("the end of the list");
    assert_eq!(names, ["after", "before"]);
}

#[tokio::test]
async fn a_version_that_is_gone_is_an_error_event_and_a_cut_comes_in_the_middle_of_a_line() {
    let cluster = Cluster::start().await;
    let (_, list) = cluster.get(JOBS).await;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    cluster.api.compact();
    let mut stream = watch(&cluster, &format!("&resourceVersion={version}")).await;
    lines_until(&mut stream, &mut String::new(), |line| {
        let (kind, object) = event(line);
        kind == "ERROR" && object["code"] == 410 && object["reason"] == "Expired"
    })
    .await
    .expect("410");
    let after = Fault::WatchCut(Duration::from_millis(50));
    cluster.api.inject(after, On::new("watch", "jobs").times(1));
    let mut stream = watch(&cluster, "").await;
    let ended = lines_until(&mut stream, &mut String::new(), |_| false).await;
    let (clean, rest) = ended.expect_err("it ends");
    assert!(!clean && rest.starts_with("{\"type\""), "{rest}");
    let path = format!("{JOBS}?watch=true&timeoutSeconds=1");
    let mut stream = cluster.ask(Method::GET, &path, None).await.expect("an answer");
    let ended = lines_until(&mut stream, &mut String::new(), |_| false).await;
    assert_eq!(ended, Err((true, String::new())), "a time limit is a clean end");
}

async fn log(cluster: &Cluster, job: &str, query: &str) -> Response {
    let pod = cluster.pod_with(job, |_| true).await;
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let path = format!("{PODS}/{name}/log?{query}");
    cluster.ask(Method::GET, &path, None).await.expect("an answer")
}

#[tokio::test]
async fn a_log_is_refused_before_the_start_then_followed_to_its_end() {
    let slow = Options {
        delays: Delays {
            start: Duration::from_millis(400),
            ..Delays::short()
        },
        ..Options::default()
    };
    let cluster = Cluster::with(slow).await;
    cluster
        .run(
            "log",
            "for n in 1 2 3; do echo line $n; sleep 0.1; done; printf end",
        )
        .await;
    cluster
        .pod_with("log", |pod| pod["spec"]["nodeName"] == "node-1")
        .await;
    let early = log(&cluster, "log", "").await;
    assert_eq!(early.status(), 400);
    let text = early.text().await.expect("a body");
    assert!(text.contains("is waiting to start: ContainerCreating"), "{text}");
    let followed = testkit::eventually_some(LIMIT, || async {
        let response = log(&cluster, "log", "follow=true&timestamps=true").await;
        (response.status() == 200).then_some(response)
    });
    let text = followed
        .await
        .expect("it starts")
        .text()
        .await
        .expect("a clean end");
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.1))
        .collect();
    assert_eq!(lines, ["line 1", "line 2", "line 3", "end"]);
    let since = text
        .lines()
        .last()
        .and_then(|line| line.split(' ').next())
        .expect("a time");
    // Cut to the second: what came before in the same second comes again.
    let again = log(&cluster, "log", &format!("sinceTime={since}")).await;
    assert!(again.text().await.expect("a body").ends_with("end\n"));
}

#[tokio::test]
async fn logs_are_cut_emptied_and_rotated_on_demand() {
    let small = Options {
        log_file_bytes: 2_000,
        ..Options::default()
    };
    let cluster = Cluster::with(small).await;
    cluster.run("much", "seq 1000; sleep 30").await;
    cluster.pod_with("much", |pod| phase(pod) == "Running").await;
    let newest = testkit::eventually_some(LIMIT, || async {
        let text = log(&cluster, "much", "").await.text().await.expect("a body");
        text.ends_with("1000\n").then_some(text)
    });
    let newest = newest.await.expect("all lines");
    assert!(!newest.starts_with("1\n"), "only the newest file is read");
    let on = || On::new("get", "pods/log").times(1);
    cluster.api.inject(Fault::LogEmpty, on());
    assert_eq!(
        log(&cluster, "much", "follow=true")
            .await
            .text()
            .await
            .expect("clean"),
        ""
    );
    cluster.api.inject(Fault::LogLoseTail(10), on());
    assert_eq!(
        log(&cluster, "much", "follow=true")
            .await
            .text()
            .await
            .expect("clean")
            .len(),
        10
    );
    cluster.api.inject(Fault::LogCut(Duration::from_millis(50)), on());
    assert!(log(&cluster, "much", "follow=true").await.text().await.is_err());
}
