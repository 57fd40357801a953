use crate::setup::{permissions, start};

#[tokio::test]
async fn files_of_the_host_cannot_be_seen() {
    let setup = start().await;
    let secret = tempfile::Builder::new()
        .permissions(permissions(0o755))
        .tempdir()
        .unwrap();
    let file = secret.path().join("secret");
    std::fs::write(&file, "top").unwrap();
    let own = std::env::current_dir().unwrap();
    let home = std::env::var("HOME").unwrap();
    for path in [
        file.to_str().unwrap(),
        own.to_str().unwrap(),
        &home,
        "/etc/shadow",
        "/etc/hostname",
        "/var",
        "/sys",
    ] {
        let output = setup.sh(&format!("ls -d {path}")).await;
        assert_eq!(output.exit_code, Some(2), "{path} is visible: {}", output.stdout);
    }
    let passwd = setup.sh("cat /etc/passwd").await.stdout;
    assert_eq!(passwd.lines().count(), 1);
    let tmp = setup.sh("ls -A /tmp; ls /run").await.stdout;
    assert_eq!(tmp, "code\nconfine\nstate\n");
    // Named, but not to be opened.
    let own = setup
        .sh("cat /run/confine; cat /run/state/started; echo x > /run/state/started")
        .await;
    assert_eq!(
        own.stderr.matches("ermission denied").count(),
        3,
        "{}",
        own.stderr
    );
    assert_eq!(setup.sh("ls -A /workspace").await.stdout, "");
}

#[tokio::test]
async fn the_system_cannot_be_written() {
    let setup = start().await;
    for target in [
        "/usr/x",
        "/etc/x",
        "/x",
        "/dev/x",
        "/lib/x",
        "/proc/sys/kernel/core_pattern",
        "/run/code/x",
    ] {
        // Opened for appending nothing, so that a hole would do no harm here.
        let output = setup.sh(&format!(": >> {target}")).await;
        assert_ne!(output.exit_code, Some(0), "{target} can be written");
    }
    let output = setup
        .sh(": > /tmp/x && : > /dev/shm/x && : > /workspace/x && echo fine")
        .await;
    assert_eq!(output.stdout, "fine\n", "{}", output.stderr);
}

#[tokio::test]
async fn programs_do_not_run_as_our_user_when_we_are_root() {
    let setup = start().await;
    if !nix::unistd::geteuid().is_root() {
        assert!(setup.sandbox.describe().contains("our own user"));
        return;
    }
    let watched = setup.sh("sleep 98766");
    let look = async {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let owners = owners_of("sleep\u{0}98766\u{0}");
            if let Some(owner) = owners.first() {
                return *owner;
            }
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        owner = look => assert_ne!(owner, 0),
        output = watched => panic!("{output:?}"),
    }
}

fn owners_of(command: &str) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = entries.filter(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == command.as_bytes())
    });
    ours.filter_map(|entry| Some(entry.metadata().ok()?.uid()))
        .collect()
}
