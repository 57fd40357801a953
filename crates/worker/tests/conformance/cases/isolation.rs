//! What a program sees of the machine it runs on. What it may not even try is in [`super::forbidden`].

use super::Backend;

pub(crate) async fn the_environment_holds_nothing_of_ours(backend: &Backend) {
    let case = backend.case();
    let names = case
        .text("tr '\\0' '\\n' < /proc/self/environ | cut -d= -f1 | sort")
        .await;
    let known = ["HOME", "LANG", "PATH", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD"];
    let extra: Vec<&str> = names.lines().filter(|name| !known.contains(name)).collect();
    assert!(extra.is_empty(), "{extra:?}");
    let all = case
        .sh("cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")
        .await
        .stdout;
    let strange: Vec<&str> = all
        .lines()
        .filter(|line| !known.iter().any(|name| line.starts_with(name)))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

pub(crate) async fn processes_of_the_host_cannot_be_seen(backend: &Backend) {
    let case = backend.case();
    let seen = case
        .text("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done")
        .await;
    assert!(seen.lines().count() < 12, "{seen}");
    assert!(
        !seen.contains("conformance") && !seen.contains("agent-worker "),
        "{seen}"
    );
    for path in [
        "/proc/1/root/etc/shadow",
        "/proc/1/cwd/../etc/shadow",
        "/proc/1/mem",
        "/proc/1/maps",
    ] {
        let outside = case.sh(&format!("cat {path}")).await;
        assert_ne!(outside.exit_code, Some(0), "{path}: {}", outside.stdout);
    }
}

pub(crate) async fn there_is_no_network(backend: &Backend) {
    let case = backend.case();
    // A server of this machine that a program could otherwise reach.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let source = format!(
        "import socket\nfor host, port in [('127.0.0.1', {port}), ('1.1.1.1', 53), ('169.254.169.254', 80), ('10.96.0.1', 443)]:\n\
         \x20   try:\n        s = socket.socket(); s.settimeout(2); s.connect((host, port)); print('CONNECTED', host)\n\
         \x20   except OSError as error: print('refused')\n\
         try: socket.getaddrinfo('example.com', 80); print('RESOLVED')\nexcept OSError: print('unknown')"
    );
    let output = case.python(&source).await;
    assert_eq!(
        output.stdout, "refused\nrefused\nrefused\nrefused\nunknown\n",
        "{}",
        output.stderr
    );
    assert!(listener.accept().is_err(), "somebody came");
    if backend.traits.has_loopback {
        let own = "import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\n\
             threading.Thread(target=lambda: s.accept()[0].sendall(b'hello')).start()\n\
             print(socket.create_connection(s.getsockname()).recv(5).decode())";
        assert_eq!(case.python(own).await.stdout, "hello\n");
    }
}

pub(crate) async fn the_system_cannot_be_written(backend: &Backend) {
    let case = backend.case();
    let targets = [
        "/usr/x",
        "/etc/x",
        "/x",
        "/dev/x",
        "/lib/x",
        "/run/x",
        "/proc/sys/kernel/core_pattern",
        "/sys/x",
    ];
    // Opened for appending nothing, so that a hole would do no harm here.
    let tries: String = targets
        .map(|target| format!("(: >> {target}) 2>/dev/null && echo {target};"))
        .concat();
    assert_eq!(case.sh(&tries).await.stdout, "");
    assert_eq!(
        case.text(": > /tmp/x && : > /workspace/x && echo fine").await,
        "fine\n"
    );
}

pub(crate) async fn no_rights_are_left(backend: &Backend) {
    let case = backend.case();
    let status = case
        .text("id -u; grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp:)' /proc/self/status")
        .await;
    let lines: Vec<&str> = status.lines().collect();
    assert_ne!(lines[0], "0");
    assert!(
        lines[1..4].iter().all(|line| line.ends_with("0000000000000000")),
        "{status}"
    );
    assert_eq!(lines[4..], ["NoNewPrivs:\t1", "Seccomp:\t2"]);
}
