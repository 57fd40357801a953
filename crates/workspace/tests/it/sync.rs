use crate::setup::{MAX_FILE, both, names, of, read, write};
use domain::tool::FileChangeKind;
use std::fs;

#[tokio::test]
async fn a_directory_round_trip_stores_exactly_what_changed() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        for (path, text) in [("a", "1"), ("d/b", "2"), ("d/c", "3")] {
            assert_eq!(write(&workspace, path, text).await, "ok", "{store}");
        }
        let dir = tempfile::tempdir().unwrap();
        let before = workspace.sync_down(dir.path(), "shell").await.unwrap();
        assert_eq!(
            (
                before.len(),
                fs::read_to_string(dir.path().join("d/b")).unwrap().as_str()
            ),
            (3, "2")
        );
        assert!(
            workspace
                .sync_up(dir.path(), &before, "shell")
                .await
                .unwrap()
                .changes
                .is_empty()
        );
        fs::write(dir.path().join("d/b"), "two").unwrap();
        fs::write(dir.path().join("d/c"), "3").unwrap();
        fs::write(dir.path().join("new"), "4").unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        let synced = workspace.sync_up(dir.path(), &before, "shell").await.unwrap();
        let paths: Vec<&str> = synced
            .artifacts
            .iter()
            .map(|file| file.file_path.as_str())
            .collect();
        assert_eq!(paths, ["d/b", "new"]);
        let changes = synced
            .changes
            .iter()
            .map(|file| (file.path.as_str(), file.change, file.bytes));
        assert_eq!(
            changes.collect::<Vec<_>>(),
            [
                ("a", FileChangeKind::Deleted, None),
                ("d/b", FileChangeKind::Changed, Some(3)),
                ("new", FileChangeKind::Added, Some(1)),
            ],
            "{store}"
        );
        assert_eq!(names(&workspace, "").await, ["d/b", "d/c", "new"]);
        assert_eq!(read(&workspace, "d/b").await, "two");
    }
}

#[tokio::test]
async fn a_change_that_keeps_size_and_time_is_still_seen() {
    let stores = both().await;
    let workspace = of(&stores.all[1].1, 1);
    assert_eq!(write(&workspace, "a", "old").await, "ok");
    let dir = tempfile::tempdir().unwrap();
    let before = workspace.sync_down(dir.path(), "shell").await.unwrap();
    let path = dir.path().join("a");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "new").unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    assert_eq!(
        workspace
            .sync_up(dir.path(), &before, "shell")
            .await
            .unwrap()
            .artifacts
            .len(),
        1
    );
    assert_eq!(read(&workspace, "a").await, "new");
}

#[tokio::test]
async fn too_much_is_refused_before_anything_is_stored() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        let dir = tempfile::tempdir().unwrap();
        let before = workspace.sync_down(dir.path(), "shell").await.unwrap();
        fs::write(dir.path().join("fine"), "x").unwrap();
        fs::File::create(dir.path().join("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let error = workspace.sync_up(dir.path(), &before, "shell").await.unwrap_err();
        assert_eq!(error.to_string(), "Workspace limit exceeded", "{store}");
        fs::remove_file(dir.path().join("sparse")).unwrap();
        for number in 0..4 {
            fs::write(
                dir.path().join(format!("f{number}")),
                vec![b'x'; MAX_FILE as usize],
            )
            .unwrap();
        }
        let error = workspace.sync_up(dir.path(), &before, "shell").await.unwrap_err();
        assert_eq!(error.to_string(), "Workspace limit exceeded");
        assert!(names(&workspace, "").await.is_empty());
    }
}
