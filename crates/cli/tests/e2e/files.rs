//! The life of a run's files in the whole system: what a step changed, a retry that starts with them, downloads, and their
//! end.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{LONG, Setup, System};
use crate::wire::{script, shell, write};

/// A model call that never succeeds.
fn refused() -> Value {
    json!({"type": "error", "status": 400, "attempts": 99})
}

impl System {
    /// `agentctl` with these arguments: exit code and what it printed.
    fn files_ctl(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_agentctl"))
            .args(args)
            .env("API_URL", &self.base)
            .env("TOKEN", &self.token)
            .env("DATABASE_URL", &self.database_url)
            .env("S3_ENDPOINT", self.s3.endpoint())
            .env("S3_ACCESS_KEY", self.s3.access_key())
            .env("S3_SECRET_KEY", self.s3.secret_key())
            .env("S3_REGION", self.s3.region())
            .env("S3_WORKSPACE_BUCKET", self.s3.bucket())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    async fn files_of_step(&self, run: &str, number: u32) -> Value {
        let sql = format!(
            "SELECT metadata::text FROM agent_steps WHERE run_id::text = $1 AND step_number = {number}"
        );
        let metadata: Value = serde_json::from_str(&self.text(&sql, run).await).unwrap();
        metadata["files"].clone()
    }

    /// Messages of the log that tell of copied files.
    async fn copies(&self, run: &str) -> Vec<Value> {
        let sql = "SELECT metadata::text FROM agent_task_logs WHERE run_id::text = $1
            AND metadata ->> 'event' = 'workspace_copied'";
        let rows = self.sql(sql, run).await;
        rows.iter()
            .map(|row| serde_json::from_str(row.get(0)).unwrap())
            .collect()
    }

    async fn retry_with_files(&self, run: &str) -> String {
        let body = json!({"action": "retry", "run_id": run, "copy_workspace": true});
        let answer = self.execute(body).await;
        answer["run_id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_step_says_what_it_did_to_files() {
    let system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[
            write("a.txt", "one"),
            write("a.txt", "two"),
            shell("mv a.txt b.txt; echo more > c.txt"),
        ]))
        .await;
    system.wait_status(&run, "completed", LONG).await;
    let first = system.files_of_step(&run, 1).await;
    assert_eq!(first["added"][0]["path"], "a.txt", "{first}");
    assert_eq!(first["added"][0]["bytes"], 3);
    let second = system.files_of_step(&run, 2).await;
    assert_eq!(
        (&second["added"], &second["changed"][0]["path"]),
        (&json!([]), &json!("a.txt"))
    );
    let third = system.files_of_step(&run, 3).await;
    let added: Vec<&Value> = third["added"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| &file["path"])
        .collect();
    assert_eq!(
        (added, &third["deleted"]),
        (vec![&json!("b.txt"), &json!("c.txt")], &json!(["a.txt"]))
    );
    assert_eq!(
        third["added"][0]["sha256"], second["changed"][0]["sha256"],
        "moved, not changed"
    );
}

#[tokio::test]
async fn retries_start_with_the_files_of_what_they_repeat_as_often_as_asked() {
    let mut system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[
            write("d/a.txt", "kept"),
            write("b.txt", "too"),
            refused(),
        ]))
        .await;
    system.wait_status(&run, "failed", LONG).await;
    // Taken back to where no worker is: its first worker is lost in the middle of its claim.
    let plain = system.act("retry", &run).await["run_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = system.retry_with_files(&run).await;
    system.wait_status(&second, "failed", LONG).await;
    let copied = system.copies(&second).await;
    assert_eq!(copied.len(), 1, "{copied:?}");
    assert_eq!(
        (&copied[0]["from"], &copied[0]["files"]),
        (&json!(run), &json!(2))
    );
    assert_eq!(system.copies(&plain).await, Vec::<Value>::new());
    // The scripts write the same files again: what was there is changed, not added.
    let first = system.files_of_step(&second, 1).await;
    assert_eq!(first["changed"][0]["path"], "d/a.txt", "{first}");
    let third = system.retry_with_files(&second).await;
    system.wait_status(&third, "failed", LONG).await;
    assert_eq!(system.copies(&third).await[0]["from"], json!(second));

    // Nothing to be had: said once, and the run goes on.
    let gone = format!(
        "UPDATE agent_runs SET metadata = metadata || '{{\"workspace\": \"expired\"}}' WHERE id = '{third}'"
    );
    system.sql(&gone, &third).await;
    let fourth = system.retry_with_files(&third).await;
    system.wait_status(&fourth, "failed", LONG).await;
    let told = system.copies(&fourth).await;
    assert_eq!((told.len(), &told[0]["reason"]), (1, &json!("expired")));
    let warned = "SELECT log_type || ' ' || message FROM agent_task_logs WHERE run_id::text = $1
        AND metadata ->> 'event' = 'workspace_copied'";
    assert_eq!(
        system.text(warned, &fourth).await,
        format!("warning The files of run {third} were deleted by retention; this run starts without them")
    );

    // A store that is away is waited for.
    system.s3.stop().await;
    let fifth = system.retry_with_files(&second).await;
    testkit::eventually(LONG, || async {
        let sql = "SELECT count(*) FROM agent_runs WHERE id::text = $1 AND retry_count > 0";
        system.count(sql, &fifth).await == 1
    })
    .await;
    assert_eq!(system.copies(&fifth).await, Vec::<Value>::new());
    system.s3.restart().await;
    system.wait_status(&fifth, "failed", LONG).await;
    assert_eq!(system.copies(&fifth).await[0]["files"], json!(2));
}

#[tokio::test]
async fn files_are_fetched_as_a_zip_and_by_address_and_cleared_away() {
    let system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[write("a.txt", "one"), write("d/b.txt", "two")]))
        .await;
    system.wait_status(&run, "completed", LONG).await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("all.zip");
    let (code, out, err) = system.files_ctl(&["files", "zip", &run, "-o", target.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.trim(), target.to_str().unwrap());
    let zip = std::fs::read(&target).unwrap();
    assert!(
        zip.starts_with(b"PK\x03\x04") && zip.ends_with(&[0, 0]),
        "a whole zip"
    );
    let (code, url, err) = system.files_ctl(&["files", &run, "url", "d/b.txt"]);
    assert_eq!(code, Some(0), "{err}");
    let fetched = system.client.get(url.trim()).send().await.unwrap();
    assert_eq!(fetched.text().await.unwrap(), "two");
    let (code, _, err) = system.files_ctl(&["files", "url", &run, "none"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("File not found: none"), "{err}");

    let long_ago =
        format!("UPDATE agent_runs SET completed_at = completed_at - interval '40 days' WHERE id = '{run}'");
    system.sql(&long_ago, &run).await;
    let gc = |args: &[&str]| {
        let all: Vec<&str> = ["workspace", "gc", "--json"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let (code, out, err) = system.files_ctl(&all);
        assert_eq!(code, Some(0), "{err}");
        let lines: Vec<Value> = out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines
    };
    let due = gc(&["--dry-run", "--older-than", "30d"]);
    assert_eq!(
        (&due[0]["run_id"], &due[0]["files"], &due[0]["bytes"]),
        (&json!(run), &json!(2), &json!(6))
    );
    assert_eq!(
        due[1],
        json!({"dry_run": true, "total": {"runs": 1, "files": 2, "bytes": 6}})
    );
    assert_eq!(gc(&["--older-than", "60d"]).len(), 1, "too young");
    assert_eq!(gc(&["--older-than", "30d"])[1]["total"]["files"], 2);
    assert_eq!(gc(&["--older-than", "30d"]).len(), 1, "done");
    let (code, _, err) = system.files_ctl(&["files", "zip", &run]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("The files of this run were deleted by retention"),
        "{err}"
    );
}

#[tokio::test]
async fn artifacts_are_listed_newest_first_and_fetched_only_as_what_they_say() {
    let system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[
            write("a.txt", "one"),
            write("a.txt", "two"),
            write("b.txt", "three"),
        ]))
        .await;
    system.wait_status(&run, "completed", LONG).await;
    let ctl = |args: &[&str]| {
        let (code, out, err) = system.files_ctl(args);
        assert_eq!(code, Some(0), "{args:?}: {err}");
        out
    };
    let listed: Vec<Value> = ctl(&["files", "artifacts", &run, "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let paths: Vec<&str> = listed
        .iter()
        .map(|line| line["file_path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["b.txt", "a.txt", "a.txt"]);
    let [newest, later, replaced] = [0, 1, 2].map(|place| listed[place]["id"].as_str().unwrap());
    let shown = ctl(&["files", &run, "artifacts"]);
    let first = shown.lines().next().unwrap();
    assert!(
        first.starts_with(newest) && first.contains("step 3") && first.ends_with("b.txt"),
        "{shown}"
    );
    let short = &listed[0]["content_hash"].as_str().unwrap()[..12];
    assert!(first.contains(&format!(" {short} ")), "{shown}");

    assert_eq!(ctl(&["files", &run, "get", newest]), "three");
    assert_eq!(ctl(&["files", "get", &run, later]), "two");
    let refused = |id: &str| {
        let (code, out, err) = system.files_ctl(&["files", &run, "get", id]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        err
    };
    let gone = refused(replaced);
    assert!(
        gone.contains("(410)") && gone.contains("agentctl files RUN artifacts"),
        "{gone}"
    );
    // Of the same length, by somebody else who writes to the bucket.
    let key = format!("users/{}/runs/{run}/b.txt", crate::support::USER);
    let put = system
        .s3
        .client()
        .put_object()
        .bucket(system.s3.bucket())
        .key(key);
    put.body("THREE".as_bytes().to_vec().into()).send().await.unwrap();
    let other = refused(newest);
    assert!(other.contains("what arrived is not the artifact"), "{other}");
    let none = refused("00000000-0000-4000-8000-000000000000");
    assert!(none.contains("no such file"), "{none}");
}
