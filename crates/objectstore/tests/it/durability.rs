use crate::setup::{BUCKET, get, serve_dir, start};
use objectstore::{Store, StoreError};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Set for the process that [`acknowledged_changes_survive_kill_9`] starts.
const CHILD_DIR: &str = "OBJECTSTORE_TEST_CHILD_DIR";

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let s3 = start().await;
    s3.put("kept", "one").await;
    s3.put("changed", "old").await;
    s3.put("changed", "new").await;
    s3.put("deleted", "x").await;
    s3.client
        .delete_object()
        .bucket(BUCKET)
        .key("deleted")
        .send()
        .await
        .unwrap();
    s3.server.shutdown().await;
    drop(s3.client);
    let (_server, client) = serve_dir(s3.dir.path()).await;
    assert_eq!(get(&client, "kept").await.as_deref(), Some("one"));
    assert_eq!(get(&client, "changed").await.as_deref(), Some("new"));
    assert_eq!(get(&client, "deleted").await, None);
}

#[tokio::test]
async fn a_half_written_record_and_stray_files_are_thrown_away_at_start() {
    let s3 = start().await;
    s3.put("kept", "one").await;
    s3.server.shutdown().await;
    let journal = s3.dir.path().join("journal");
    let mut file = std::fs::OpenOptions::new().append(true).open(journal).unwrap();
    file.write_all(b"{\"op\":\"delete\",\"bucket\":\"test-bucket\",\"ke")
        .unwrap();
    std::fs::write(s3.dir.path().join("incoming/half"), "x").unwrap();
    std::fs::write(
        s3.dir.path().join("blobs/00000000-0000-0000-0000-000000000001"),
        "x",
    )
    .unwrap();
    let (_server, client) = serve_dir(s3.dir.path()).await;
    assert_eq!(get(&client, "kept").await.as_deref(), Some("one"));
    assert_eq!(std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_dir(s3.dir.path().join("incoming")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_record_whose_content_never_arrived_leaves_the_object_before() {
    let s3 = start().await;
    s3.put("doc", "one").await;
    s3.server.shutdown().await;
    let journal = s3.dir.path().join("journal");
    let text = std::fs::read_to_string(&journal).unwrap();
    let put = text.lines().last().unwrap();
    let blob = put
        .split("\"blob\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let lost = put.replace(blob, "00000000-0000-0000-0000-000000000009");
    std::fs::write(&journal, format!("{text}{lost}\n")).unwrap();
    let (_server, client) = serve_dir(s3.dir.path()).await;
    assert_eq!(get(&client, "doc").await.as_deref(), Some("one"));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_damaged_journal_is_said_not_ignored() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("journal"), "nonsense\n").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { line: 1, .. }), "{error}");
}

/// Writes numbered objects until it is killed, naming each acknowledged one on its standard output.
#[tokio::test]
async fn child_process_of_the_kill_test() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let (_server, client) = serve_dir(&PathBuf::from(dir)).await;
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    for number in 0..1_000_000 {
        let put = client.put_object().bucket(BUCKET).key(format!("k{}", number % 7));
        put.body(format!("{number}").into_bytes().into())
            .send()
            .await
            .unwrap();
        println!("done {number}");
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn acknowledged_changes_survive_kill_9() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "durability::child_process_of_the_kill_test",
        "--nocapture",
    ]);
    let child = command
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = std::io::BufReader::new(child.0.stdout.take().unwrap()).lines();
    let acknowledged = |line: &str| {
        line.rsplit_once("done ")
            .and_then(|(_, number)| number.parse::<u32>().ok())
    };
    while lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| acknowledged(&line))
        != Some(40)
    {}
    child.0.kill().unwrap();
    let last = lines
        .map_while(Result::ok)
        .filter_map(|line| acknowledged(&line))
        .last()
        .unwrap_or(40);
    drop(child);
    let (_server, client) = serve_dir(dir.path()).await;
    for number in last - 6..=last {
        let found: u32 = get(&client, &format!("k{}", number % 7))
            .await
            .unwrap()
            .parse()
            .unwrap();
        // The one being written when it was killed may be there as well.
        assert!(
            found == number || found == last + 1,
            "wanted {number} or {}, found {found}",
            last + 1
        );
    }
}
