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

#[tokio::test]
async fn a_name_that_cannot_be_kept_is_told_and_all_other_files_are_stored() {
    use std::os::unix::ffi::OsStrExt;
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        assert_eq!(write(&workspace, "old", "1").await, "ok");
        let dir = tempfile::tempdir().unwrap();
        let before = workspace.sync_down(dir.path(), "shell").await.unwrap();
        fs::remove_file(dir.path().join("old")).unwrap();
        fs::write(dir.path().join("fine"), "x").unwrap();
        fs::write(dir.path().join("a\\b"), "x").unwrap();
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"d\xff"));
        fs::create_dir_all(odd.join("empty")).unwrap();
        fs::write(odd.join("f"), "x").unwrap();
        let synced = workspace.sync_up(dir.path(), &before, "shell").await.unwrap();
        let told = "Invalid path: a\\b, d\u{fffd}/f";
        assert_eq!(synced.fault.as_deref(), Some(told), "{store}");
        assert_eq!(names(&workspace, "").await, ["fine"]);
        let changes = synced.changes.iter().map(|file| file.path.as_str());
        assert_eq!(changes.collect::<Vec<_>>(), ["fine", "old"]);
    }
}

#[tokio::test]
async fn a_program_stays_one_over_directories_and_copies() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: std::path::PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o100;
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        assert_eq!(write(&workspace, "run.sh", "true").await, "ok");
        assert_eq!(write(&workspace, "text", "x").await, "ok");
        let dir = tempfile::tempdir().unwrap();
        let before = workspace.sync_down(dir.path(), "shell").await.unwrap();
        let script = dir.path().join("run.sh");
        assert_eq!(mode(script.clone()), 0);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let synced = workspace.sync_up(dir.path(), &before, "shell").await.unwrap();
        assert_eq!(synced.changes.len(), 1, "{store}");
        let copy = of(workspaces, 2);
        copy.copy_from(&workspace).await.unwrap();
        for workspace in [&workspace, &copy] {
            let dir = tempfile::tempdir().unwrap();
            let before = workspace.sync_down(dir.path(), "shell").await.unwrap();
            assert_ne!(mode(dir.path().join("run.sh")), 0, "{store}");
            assert_eq!(mode(dir.path().join("text")), 0, "{store}");
            let synced = workspace.sync_up(dir.path(), &before, "shell").await.unwrap();
            assert!(synced.changes.is_empty(), "{store}");
        }
    }
}

#[tokio::test]
async fn files_that_no_directory_can_hold_together_are_told_without_a_place_of_this_machine() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        assert_eq!(write(&workspace, "d/f.txt", "1").await, "ok");
        let objects = workspaces.objects().unwrap();
        let key = format!("{}d", workspace.prefix());
        objects.put(&key, "2".into(), "text/plain").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = workspace.sync_down(dir.path(), "shell").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Invalid path: d (it is a file, and d/f.txt is below it)",
            "{store}"
        );
    }
}
