use crate::setup::{MAX_FILE, both, names, of, read, run, write};
use bytes::Bytes;

#[tokio::test]
async fn files_are_written_read_and_listed() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        let artifact = workspace
            .write("./docs//grüezi.md", Bytes::from("grüezi"))
            .await
            .unwrap();
        assert!(!artifact.replaced, "{store}");
        let artifact = artifact.artifact;
        assert_eq!(artifact.file_path, "docs/grüezi.md", "{store}");
        assert_eq!(
            (artifact.file_size, artifact.mime_type.as_str()),
            (7, "text/markdown")
        );
        assert_eq!(
            artifact.content_hash,
            "97efc0b40e7e91422f31620201d7200b74722c8f1776c263577c604026eb92b3"
        );
        assert_eq!(
            artifact.storage_key,
            format!("users/auth0%7C7/runs/{}/docs/grüezi.md", run(1))
        );
        assert_eq!(write(&workspace, "docs/b.txt", "b").await, "ok");
        assert_eq!(write(&workspace, "docs2/c.txt", "c").await, "ok");
        assert_eq!(read(&workspace, "docs/grüezi.md").await, "grüezi");
        assert_eq!(
            names(&workspace, "").await,
            ["docs/b.txt", "docs/grüezi.md", "docs2/c.txt"]
        );
        assert_eq!(names(&workspace, "docs").await, ["docs/b.txt", "docs/grüezi.md"]);
        assert_eq!(names(&workspace, "./docs/").await.len(), 2);
        assert!(names(&workspace, "none").await.is_empty());
        let listed = &workspace.list("docs2").await.unwrap()[0];
        assert_eq!(listed.size, 1);
        assert!(
            listed.last_modified.ends_with('Z') && listed.last_modified.len() == 27,
            "{}",
            listed.last_modified
        );
        assert!(names(&of(workspaces, 2), "").await.is_empty());
    }
}

#[tokio::test]
async fn missing_and_invalid_paths_are_told_as_the_contract_says() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        assert_eq!(
            read(&workspace, "no.txt").await,
            "File not found: no.txt",
            "{store}"
        );
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            ".agent/state",
            "a\\b",
            "a\0b",
            &"x".repeat(513),
        ] {
            assert_eq!(read(&workspace, path).await, format!("Invalid path: {path}"));
            assert_eq!(
                write(&workspace, path, "x").await,
                format!("Invalid path: {path}")
            );
        }
        for dir in ["/", "..", ".agent", "a\\b"] {
            assert_eq!(
                workspace.list(dir).await.unwrap_err().to_string(),
                format!("Invalid path: {dir}")
            );
        }
        assert!(names(&workspace, "").await.is_empty());
    }
}

#[tokio::test]
async fn limits_hold_per_file_and_per_run_and_replacing_frees() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        let full = "x".repeat(MAX_FILE as usize);
        let over = format!("{full}x");
        assert_eq!(
            write(&workspace, "big", &over).await,
            "Workspace limit exceeded",
            "{store}"
        );
        for name in ["a", "b", "c"] {
            assert_eq!(write(&workspace, name, &full).await, "ok");
        }
        assert_eq!(write(&workspace, "d", "x").await, "Workspace limit exceeded");
        assert_eq!(write(&workspace, "c", &full).await, "ok");
        assert_eq!(write(&workspace, "c", "").await, "ok");
        assert_eq!(write(&workspace, "d", "x").await, "ok");
        // What another process wrote counts as well.
        assert_eq!(
            write(&of(workspaces, 1), "e", &full).await,
            "Workspace limit exceeded"
        );
        assert_eq!(names(&workspace, "").await, ["a", "b", "c", "d"]);
    }
}

#[tokio::test]
async fn a_file_is_not_written_where_a_directory_is_nor_below_a_file() {
    let stores = both().await;
    for (store, workspaces) in &stores.all {
        let workspace = of(workspaces, 1);
        assert_eq!(write(&workspace, "d/e/f.txt", "1").await, "ok");
        for (path, why) in [
            ("d", "it is a directory"),
            ("d/e", "it is a directory"),
            ("d/e/f.txt/g", "d/e/f.txt is a file"),
            ("d/e/f.txt/g/h", "d/e/f.txt is a file"),
        ] {
            let told = format!("Invalid path: {path} ({why})");
            assert_eq!(write(&workspace, path, "2").await, told, "{store}");
        }
        // Also when it came to be beside this: by a program, or by an upload.
        let objects = workspaces.objects().unwrap();
        let key = |path: &str| format!("{}{path}", workspace.prefix());
        objects.put(&key("x/y"), "1".into(), "text/plain").await.unwrap();
        assert!(write(&workspace, "x", "2").await.starts_with("Invalid path: x ("));
        // A marker of a directory is no file of ours.
        objects.put(&key("m/"), "".into(), "text/plain").await.unwrap();
        assert_eq!(write(&workspace, "m", "2").await, "ok", "{store}");
        assert_eq!(write(&workspace, "d/e/f.txt", "2").await, "ok");
        assert_eq!(write(&workspace, "d/e/f", "2").await, "ok");
        assert_eq!(names(&workspace, "").await, ["d/e/f", "d/e/f.txt", "m", "x/y"]);
    }
}
