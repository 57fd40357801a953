use crate::support::{store, user};
use domain::change::Change;
use domain::event::NewEvent;
use domain::ids::RunId;
use domain::status::RunStatus;
use runs::{BadCursor, LogQuery, Reader, RunListQuery, RunParts};
use std::collections::BTreeSet;

#[tokio::test]
async fn polling_by_time_or_by_seq_loses_and_repeats_nothing() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let logs = (0..40)
        .map(|n| Change::Log(NewEvent::info(format!("{n}"))))
        .collect();
    store.progress(job.run_id, epoch, logs).await.unwrap();
    let all = store.events(job.run_id).await;
    let mut seen = vec![];
    let mut page = LogQuery {
        limit: 7,
        ..LogQuery::default()
    };
    loop {
        let answer = store.reader.logs(job.run_id, page).await.unwrap();
        seen.extend(answer.logs.iter().map(|row| row["seq"].as_i64().unwrap()));
        assert_eq!(answer.has_more, answer.next_cursor.is_some());
        let Some(cursor) = answer.next_cursor else { break };
        page.since = Some(cursor.parse().unwrap());
    }
    assert_eq!(seen, all.iter().map(|event| event.seq).collect::<Vec<_>>());
    let middle = &all[10];
    assert_eq!(
        store
            .reader
            .sequence_at(job.run_id, middle.created_at)
            .await
            .unwrap(),
        middle.seq
    );
    let before = all[0].created_at - jiff::SignedDuration::from_micros(1);
    assert_eq!(store.reader.sequence_at(job.run_id, before).await.unwrap(), 0);
    let page = LogQuery {
        after: Some(12),
        since: Some(middle.created_at),
        limit: 1,
    };
    assert_eq!(
        store.reader.logs(job.run_id, page).await.unwrap().logs[0]["seq"],
        13
    );
    assert_eq!(
        (
            Reader::tail_start(9, 3),
            Reader::tail_start(2, 5),
            Reader::tail_start(9, 0)
        ),
        (6, 0, 9)
    );
    let newest = store.reader.parts(job.run_id, RunParts::Logs, 1).await.unwrap();
    assert_eq!(newest[0]["seq"], all.last().unwrap().seq);
}

#[tokio::test]
async fn lists_go_from_the_newest_run_to_the_oldest_one_page_at_a_time() {
    let store = store().await;
    let mut made = vec![];
    for n in 0..7 {
        made.push(store.created(n % 2 == 0).await.run.id);
    }
    made.reverse();
    let mut page = RunListQuery {
        limit: 3,
        ..RunListQuery::default()
    };
    let mut seen: Vec<RunId> = vec![];
    loop {
        let answer = store.reader.list(&user(), &page).await.unwrap();
        seen.extend(
            answer
                .runs
                .iter()
                .map(|run| run["id"].as_str().unwrap().parse::<RunId>().unwrap()),
        );
        page.cursor = answer.next_cursor;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(
        seen, made,
        "all runs were made at the same time by the test's clock"
    );
    let queued = RunListQuery {
        status: Some(RunStatus::Queued),
        limit: 20,
        cursor: None,
    };
    assert_eq!(store.reader.list(&user(), &queued).await.unwrap().runs.len(), 4);
    assert!(
        store
            .reader
            .list(&"u-2".into(), &queued)
            .await
            .unwrap()
            .runs
            .is_empty()
    );
    let garbage = RunListQuery {
        cursor: Some("x".to_owned()),
        ..queued
    };
    assert!(matches!(
        store.reader.list(&user(), &garbage).await,
        Err(BadCursor::Cursor)
    ));
}

#[tokio::test]
async fn the_run_view_has_the_promised_columns_and_no_lease() {
    let store = store().await;
    let run = store.created(false).await.run.id;
    let view = store.reader.run(run).await.unwrap().unwrap();
    let keys: BTreeSet<&str> = view.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "id",
        "user_id",
        "plan",
        "total_credits_used",
        "retry_of",
        "external_id",
        "deadline_at",
        "metadata",
    ] {
        assert!(keys.contains(key), "{key}");
    }
    assert!(
        !keys
            .iter()
            .any(|key| key.contains("lease") || key.contains("fencing")),
        "{keys:?}"
    );
    assert_eq!(
        view["created_at"].as_str().unwrap(),
        "2026-11-20T17:00:00.000000Z"
    );
    assert!(
        store
            .reader
            .run(RunId(uuid::Uuid::max()))
            .await
            .unwrap()
            .is_none()
    );
    let heads = store
        .reader
        .heads(&[run, RunId(uuid::Uuid::max())])
        .await
        .unwrap();
    assert_eq!((heads.len(), heads[0].last_seq), (1, 2));
}
