use crate::setup::{MAX_FILE, MAX_TOTAL, both, names, of, options_for, read, write};
use bytes::Bytes;
use domain::SystemClock;
use futures::StreamExt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use testkit::S3;
use workspace::{Amount, MemoryObjects, Objects, RunWorkspace, WorkspacePath, Workspaces, zip};

/// Puts an object below a run's prefix, as something else than a tool would.
async fn put(s3: &S3, workspace: &RunWorkspace, path: &str, content: Vec<u8>) {
    s3.client()
        .put_object()
        .bucket(s3.bucket())
        .key(format!("{}{path}", workspace.prefix()))
        .body(content.into())
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn pages_name_each_visible_file_once_in_order() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        for number in 0..7 {
            assert_eq!(
                write(&workspace, &format!("d/{number}"), "x").await,
                "ok",
                "{store}"
            );
        }
        write(&of(workspaces, 2), "other", "x").await;
        let (mut seen, mut after) = (vec![], None);
        loop {
            let page = workspace.page(after.as_deref(), 3).await.unwrap();
            seen.push(page.files.len());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, [3, 3, 1], "{store}");
        let rest = workspace.page(Some("d/4"), 100).await.unwrap();
        let paths: Vec<&str> = rest.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["d/5", "d/6"]);
        assert_eq!(
            workspace
                .size(&WorkspacePath::parse("d/1").unwrap())
                .await
                .unwrap(),
            Some(1)
        );
        assert_eq!(
            workspace
                .size(&WorkspacePath::parse("no").unwrap())
                .await
                .unwrap(),
            None
        );
    }
    let hidden = of(&stores.all[0].1, 3);
    put(&stores.s3, &hidden, ".agent/steps/1", vec![1]).await;
    put(&stores.s3, &hidden, "z", vec![1]).await;
    let page = hidden.page(None, 1).await.unwrap();
    assert_eq!((page.files.len(), page.next), (1, None));
}

#[tokio::test]
async fn a_copy_has_the_files_and_nothing_of_ours_and_may_be_made_again() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let (source, target) = (of(workspaces, 1), of(workspaces, 2));
        for path in ["a", "d/ü é.txt", "d/+&=%41"] {
            assert_eq!(write(&source, path, path).await, "ok", "{store}");
        }
        let amount = target.copy_from(&source).await.unwrap();
        assert_eq!(amount.files, 3, "{store}");
        assert_eq!(names(&target, "").await, ["a", "d/+&=%41", "d/ü é.txt"]);
        assert_eq!(read(&target, "d/ü é.txt").await, "d/ü é.txt");
        // A worker is lost in the middle: some are there, one is of an older try.
        let again = of(workspaces, 2);
        write(&again, "a", "half").await;
        assert_eq!(again.copy_from(&source).await.unwrap(), amount, "{store}");
        assert_eq!(read(&again, "a").await, "a");
        assert_eq!(read(&source, "a").await, "a", "the source stays");
        // Retries of retries.
        let third = of(workspaces, 3);
        third.copy_from(&again).await.unwrap();
        assert_eq!(names(&third, "").await.len(), 3);
    }
    let (source, target) = (of(&stores.all[0].1, 5), of(&stores.all[0].1, 6));
    put(&stores.s3, &source, ".agent/packs/x", vec![1]).await;
    put(&stores.s3, &source, "page.html", vec![1]).await;
    target.copy_from(&source).await.unwrap();
    assert_eq!(target.remove_hidden().await.unwrap(), Amount::default());
}

#[tokio::test]
async fn more_than_the_run_may_have_is_not_copied_at_all() {
    let stores = both().await;
    let (source, target) = (of(&stores.all[0].1, 1), of(&stores.all[0].1, 2));
    put(&stores.s3, &source, "large", vec![0; MAX_FILE as usize + 1]).await;
    put(&stores.s3, &source, "small", vec![0]).await;
    let error = target.copy_from(&source).await.unwrap_err();
    assert_eq!(error.to_string(), "Workspace limit exceeded");
    let source = of(&stores.all[0].1, 3);
    for number in 0..4 {
        put(
            &stores.s3,
            &source,
            &format!("{number}"),
            vec![0; MAX_TOTAL as usize / 3],
        )
        .await;
    }
    let error = target.copy_from(&source).await.unwrap_err();
    assert_eq!(error.to_string(), "Workspace limit exceeded");
    assert!(names(&target, "").await.is_empty());
}

#[tokio::test]
async fn what_is_removed_is_gone_and_counted_and_others_stay() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let (workspace, other) = (of(workspaces, 1), of(workspaces, 2));
        for number in 0..5 {
            write(&workspace, &format!("{number}"), "xx").await;
        }
        write(&other, "kept", "x").await;
        let five = Amount { files: 5, bytes: 10 };
        assert_eq!(workspace.measure().await.unwrap(), five, "{store}");
        assert_eq!(workspace.remove_all().await.unwrap(), five);
        assert_eq!(workspace.remove_all().await.unwrap(), Amount::default(), "again");
        assert_eq!(names(&other, "").await, ["kept"]);
        let left = workspaces.stored_runs().await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].prefix, other.prefix());
        let (amount, newest) = workspaces.weigh(&left[0]).await.unwrap();
        assert_eq!((amount.files, newest.is_some()), (1, true));
        workspaces.remove(&left[0]).await.unwrap();
        assert!(names(&other, "").await.is_empty());
    }
    let workspace = of(&stores.all[0].1, 7);
    put(&stores.s3, &workspace, ".agent/packs/x", vec![1, 2, 3]).await;
    put(&stores.s3, &workspace, "kept", vec![1]).await;
    let ours = Amount { files: 1, bytes: 3 };
    assert_eq!(
        workspace.measure().await.unwrap().files,
        1,
        "ours are not counted"
    );
    assert_eq!(workspace.remove_hidden().await.unwrap(), ours);
    assert_eq!(names(&workspace, "").await, ["kept"]);
}

async fn collected(workspace: RunWorkspace) -> Result<Vec<u8>, String> {
    let mut chunks = Box::pin(zip(workspace));
    let mut whole = vec![];
    while let Some(chunk) = chunks.next().await {
        whole.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
    }
    Ok(whole)
}

#[tokio::test]
async fn a_zip_holds_every_file_by_path() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        for (path, text) in [("b/c.txt", "two"), ("a.txt", "one"), ("ü", ""), ("b/d", "three")] {
            assert_eq!(write(&workspace, path, text).await, "ok", "{store}");
        }
        let whole = collected(workspace).await.unwrap();
        let mut archive = zip_archive(whole);
        let names: Vec<String> = archive
            .file_names()
            .map(|name| name.unwrap().into_owned())
            .collect();
        assert_eq!(names, ["a.txt", "b/c.txt", "b/d", "ü"], "{store}");
        assert_eq!(content(&mut archive, "b/c.txt"), b"two");
        assert_eq!(content(&mut archive, "ü"), b"");
    }
    let empty = of(&stores.all[0].1, 9);
    assert_eq!(zip_archive(collected(empty).await.unwrap()).len(), 0);
}

type Archive = ::zip::ZipArchive<std::io::Cursor<Vec<u8>>>;

fn zip_archive(whole: Vec<u8>) -> Archive {
    ::zip::ZipArchive::new(std::io::Cursor::new(whole)).unwrap()
}

fn content(archive: &mut Archive, name: &str) -> Vec<u8> {
    let mut content = vec![];
    archive.by_name(name).unwrap().read_to_end(&mut content).unwrap();
    content
}

/// Bytes that cannot be packed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test]
async fn large_files_come_piece_by_piece_and_more_files_than_one_listing_names() {
    let s3 = S3::start().await;
    let workspaces = Workspaces::for_reading(&options_for(&s3).store);
    let workspace = of(&workspaces, 1);
    let large = noise(3 << 20);
    put(&s3, &workspace, "large", large.clone()).await;
    let client = s3.client();
    futures::stream::iter(0..1100)
        .for_each_concurrent(16, |number| {
            let key = format!("{}f/{number:04}", workspace.prefix());
            let put = client.put_object().bucket(s3.bucket()).key(key);
            async move { drop(put.body(vec![b'x'].into()).send().await.unwrap()) }
        })
        .await;
    let mut archive = zip_archive(collected(workspace).await.unwrap());
    assert_eq!(archive.len(), 1101);
    assert_eq!(content(&mut archive, "large"), large);
    assert_eq!(content(&mut archive, "f/1099"), b"x");
}

#[tokio::test]
async fn a_zip_whose_store_goes_away_ends_in_an_error_and_never_looks_whole() {
    let mut s3 = S3::start().await;
    let workspaces = Workspaces::for_reading(&options_for(&s3).store);
    let workspace = of(&workspaces, 1);
    for number in 0..6 {
        put(&s3, &workspace, &format!("{number}"), noise(2 << 20)).await;
    }
    let mut chunks = Box::pin(zip(workspace));
    let mut got: Vec<u8> = chunks.next().await.unwrap().unwrap().to_vec();
    s3.stop().await;
    let mut ending = Ok(());
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => got.extend_from_slice(&chunk),
            Err(error) => ending = Err(error.to_string()),
        }
    }
    let error = ending.unwrap_err();
    assert!(
        error.starts_with("workspace storage failed: GetObject"),
        "{error}"
    );
    assert!(::zip::ZipArchive::new(std::io::Cursor::new(got)).is_err());
}

#[tokio::test]
async fn who_stops_reading_stops_the_work() {
    let memory = Objects::Memory(MemoryObjects::new(Arc::new(SystemClock)));
    let workspace = of(&Workspaces::on(memory, u64::MAX, u64::MAX), 1);
    for number in 0..8 {
        let content = Bytes::from(noise(1 << 20));
        workspace.write(&format!("{number}"), content).await.unwrap();
    }
    let mut chunks = Box::pin(zip(workspace));
    let first = chunks.next().await.unwrap().unwrap();
    assert!(!first.is_empty());
    drop(chunks);
    // Who feeds the packer is this runtime's only task, and ends when the packer has.
    let metrics = tokio::runtime::Handle::current().metrics();
    testkit::eventually(Duration::from_secs(20), || async {
        metrics.num_alive_tasks() == 0
    })
    .await;
}

#[tokio::test]
async fn an_address_names_the_file_and_where_the_store_is_seen() {
    let s3 = S3::start().await;
    let options = options_for(&s3).store;
    let path = WorkspacePath::parse("d/a b.txt").unwrap();
    let link = async |workspaces: &Workspaces| {
        let workspace = of(workspaces, 1);
        workspace.link(&path, Duration::from_secs(90)).await.unwrap()
    };
    let url = link(&Workspaces::for_reading(&options)).await;
    assert!(url.starts_with(&s3.endpoint()), "{url}");
    assert!(url.contains("X-Amz-Expires=90"), "{url}");
    assert!(url.contains("response-content-disposition=attachment"), "{url}");
    assert!(!url.contains(s3.secret_key()));
    let url = link(&Workspaces::linked_at(&options, "https://files.example")).await;
    assert!(url.starts_with("https://files.example/"), "{url}");
    let workspaces = Workspaces::for_reading(&options);
    write(&of(&workspaces, 1), "x", "1").await;
    assert_eq!(of(&workspaces, 1).read("x").await.unwrap(), Bytes::from("1"));
}
