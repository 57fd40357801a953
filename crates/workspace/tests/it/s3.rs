use crate::setup::{both, names, of, options, options_for, read, run, write};
use futures::StreamExt;
use std::time::{Duration, Instant};
use testkit::S3;
use workspace::Workspaces;

#[tokio::test]
async fn objects_have_a_content_type_and_our_own_stay_hidden() {
    let s3 = S3::start().await;
    let workspaces = Workspaces::from_options(&options_for(&s3));
    let workspace = of(&workspaces, 1);
    assert_eq!(write(&workspace, "page.html", "<p>").await, "ok");
    let key = |path: &str| format!("users/auth0%7C7/runs/{}/{path}", run(1));
    let head = s3
        .client()
        .head_object()
        .bucket(s3.bucket())
        .key(key("page.html"))
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_type(), Some("text/html"));
    for path in [".agent/plan.json", "marker/", "page.html.bak"] {
        s3.client()
            .put_object()
            .bucket(s3.bucket())
            .key(key(path))
            .send()
            .await
            .unwrap();
    }
    assert_eq!(names(&workspace, "").await, ["page.html", "page.html.bak"]);
}

#[tokio::test]
async fn lists_any_number_of_files() {
    let s3 = S3::start().await;
    let workspaces = Workspaces::from_options(&options_for(&s3));
    let keys = (0..2100).map(|number| format!("users/auth0%7C7/runs/{}/f/{number:04}", run(1)));
    let client = s3.client();
    let puts = futures::stream::iter(keys).map(|key| client.put_object().bucket(s3.bucket()).key(key).send());
    puts.buffer_unordered(32)
        .for_each(async |put| drop(put.unwrap()))
        .await;
    let listed = names(&of(&workspaces, 1), "f").await;
    assert_eq!(listed.len(), 2100);
    assert_eq!((listed[0].as_str(), listed[2099].as_str()), ("f/0000", "f/2099"));
    let dir = tempfile::tempdir().unwrap();
    let before = of(&workspaces, 1).sync_down(dir.path(), "shell").await.unwrap();
    assert_eq!(before.len(), 2100);
    std::fs::remove_dir_all(dir.path().join("f")).unwrap();
    of(&workspaces, 1)
        .sync_up(dir.path(), &before, "shell")
        .await
        .unwrap();
    assert!(names(&of(&workspaces, 1), "").await.is_empty());
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_and_never_an_empty_list() {
    let stores = both().await;
    let mut options = options_for(&stores.s3);
    options.store.s3_workspace_bucket = "no-such-bucket".to_owned();
    let missing = Workspaces::from_options(&options);
    for text in [
        of(&missing, 1).list("").await.unwrap_err().to_string(),
        read(&of(&missing, 1), "a").await,
        write(&of(&missing, 1), "a", "x").await,
    ] {
        assert!(
            text.starts_with("workspace storage failed: ") && text.contains("NoSuchBucket"),
            "{text}"
        );
    }
    assert!(missing.check().await.is_err());
    options.store.s3_endpoint = format!("http://127.0.0.1:{}", testkit::free_port());
    let away = Workspaces::from_options(&options);
    let text = of(&away, 1).list("").await.unwrap_err().to_string();
    assert_eq!(
        text,
        "workspace storage failed: ListObjectsV2: the endpoint cannot be reached"
    );
}

#[tokio::test]
async fn readiness_asks_the_bucket_and_answers_within_two_seconds() {
    let s3 = S3::start().await;
    Workspaces::from_options(&options_for(&s3)).check().await.unwrap();
    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options_for(&s3);
    options.store.s3_endpoint = format!("http://{}", silent.local_addr().unwrap());
    let started = Instant::now();
    let error = Workspaces::from_options(&options).check().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "workspace storage failed: HeadBucket: no answer within 2 s"
    );
    assert!(started.elapsed() < Duration::from_millis(2500));
}

#[tokio::test]
async fn without_keys_each_tool_names_the_settings() {
    for args in [
        &[][..],
        &["--s3-access-key", "k"],
        &["--s3-access-key", "", "--s3-secret-key", ""],
    ] {
        let workspaces = Workspaces::from_options(&options(args));
        assert!(!workspaces.is_configured());
        workspaces.check().await.unwrap();
        let workspace = of(&workspaces, 1);
        let settings = "is not configured: set S3_ACCESS_KEY and S3_SECRET_KEY";
        assert_eq!(read(&workspace, "a").await, format!("file_read {settings}"));
        assert_eq!(
            write(&workspace, "a", "x").await,
            format!("file_write {settings}")
        );
        assert_eq!(
            workspace.list("").await.unwrap_err().to_string(),
            format!("file_list {settings}")
        );
    }
}

#[test]
fn the_defaults_are_the_contracts_and_the_secret_is_not_printed() {
    let options = options(&["--s3-access-key", "k", "--s3-secret-key", "hidden-value"]);
    assert_eq!(options.store.s3_endpoint, "https://sos-ch-gva-2.exo.io");
    assert_eq!(
        (
            options.store.s3_workspace_bucket.as_str(),
            options.store.s3_region.as_str()
        ),
        ("swissbrain-workspaces", "ch-gva-2")
    );
    assert_eq!(
        (options.workspace_max_file_bytes, options.workspace_max_bytes),
        (26_214_400, 1_073_741_824)
    );
    assert!(options.store.s3_force_path_style);
    assert!(!format!("{options:?}").contains("hidden-value"));
}
