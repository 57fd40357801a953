use crate::setup::{code, permissions, start};

#[tokio::test]
async fn there_is_no_network() {
    let setup = start().await;
    // A server of this machine that a program could otherwise reach.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let source = format!(
        "import socket, os\nprint(sorted(os.listdir('/sys/class/net')) if os.path.isdir('/sys') else 'no /sys')\n\
         for host, port in [('127.0.0.1', {port}), ('1.1.1.1', 53), ('169.254.169.254', 80)]:\n\
         \x20   s = socket.socket(); s.settimeout(2)\n\
         \x20   try:\n        s.connect((host, port)); print('CONNECTED', host)\n\
         \x20   except OSError as error: print('refused')\n"
    );
    let output = setup.run(&code("python", &source)).await.unwrap();
    assert_eq!(
        output.stdout, "no /sys\nrefused\nrefused\nrefused\n",
        "{}",
        output.stderr
    );
    let devices = setup.sh("tail -n +3 /proc/net/dev | cut -d: -f1").await.stdout;
    assert_eq!(devices.trim(), "lo");
}

#[tokio::test]
async fn the_environment_holds_nothing_of_ours() {
    let setup = start().await;
    let names = setup
        .sh("tr '\\0' '\\n' < /proc/self/environ | cut -d= -f1 | sort")
        .await
        .stdout;
    let extra: Vec<&str> = names
        .lines()
        .filter(|name| !["HOME", "LANG", "PATH", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD"].contains(name))
        .collect();
    assert!(extra.is_empty(), "{extra:?}");
    let all = setup
        .sh("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")
        .await
        .stdout;
    assert!(!all.contains("CARGO"), "{all}");
}

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
async fn processes_of_the_host_cannot_be_seen() {
    let setup = start().await;
    let output = setup
        .sh("ls -d /proc/[0-9]* | wc -l; for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done")
        .await;
    let count: u32 = output.stdout.lines().next().unwrap().parse().unwrap();
    assert!(count < 10, "{}", output.stdout);
    assert!(!output.stdout.contains("deps/sandbox-"), "{}", output.stdout);
    let outside = setup
        .sh("cat /proc/1/root/etc/shadow /proc/1/cwd/../etc/shadow; ls -A /proc/1/root/root")
        .await;
    assert_ne!(outside.exit_code, Some(0), "{}", outside.stdout);
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
async fn no_rights_are_left() {
    let setup = start().await;
    let status = setup
        .sh("id -u; grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs)' /proc/self/status")
        .await
        .stdout;
    let lines: Vec<&str> = status.lines().collect();
    assert_eq!(lines[0], "65534");
    assert!(
        lines[1..4].iter().all(|line| line.ends_with("0000000000000000")),
        "{status}"
    );
    assert_eq!(lines[4], "NoNewPrivs:\t1");
    for command in [
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "chroot / true",
        "hostname x",
        "su -c true",
    ] {
        assert_ne!(setup.sh(command).await.exit_code, Some(0), "{command}");
    }
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
