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
