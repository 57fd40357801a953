use crate::setup::{Counting, InTurn, client, get};
use outbound::{Guard, GuardedProxy, Refused};
use reqwest::Url;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Hosts that lead inside, in every spelling that URLs know. The first ones reach a listener of this machine if dialled.
const HOSTS: [&str; 70] = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7F.0x0.0x0.0x1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.0x1",
    "0",
    "0.0.0.0",
    "0x0",
    "00000",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "127。0。0。1",
    "１２７.0.0.1",
    "①②⑦.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "lo\u{ad}calhost",
    "anything.localhost",
    "10.0.0.1",
    "10.255.255.255",
    "012.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "168.63.129.16",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[ff02::1]",
    "[2001:db8::1]",
];

#[tokio::test]
async fn no_spelling_of_an_inner_address_makes_a_connection() {
    let listener = Counting::start().await;
    let guard = Guard::new(false);
    for host in HOSTS {
        let url = format!("http://{host}:{}/", listener.port);
        let refused = get(&guard, &url).await.expect_err(&url);
        assert_eq!(refused.to_string(), "Address not allowed", "{url}");
    }
    assert_eq!(listener.seen(), 0);
    // The listener does count.
    let free = Guard::new(true);
    let url = format!("http://127.0.0.1:{}/", listener.port);
    drop(client(&free).get(url).send().await);
    assert_eq!(listener.seen(), 1);
}

#[tokio::test]
async fn no_spelling_of_an_inner_address_passes_the_proxy() {
    let listener = Counting::start().await;
    let proxy = GuardedProxy::start(Guard::new(false)).await.unwrap();
    for host in HOSTS {
        // As a browser would write it: normal form where it parses.
        let url = Url::parse(&format!("http://{host}:{}/", listener.port)).unwrap();
        let host = url.host_str().unwrap();
        let target = format!("{host}:{}", listener.port);
        let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        assert!(
            answer(&proxy, &connect)
                .await
                .unwrap()
                .starts_with("HTTP/1.1 403"),
            "{target}"
        );
        let forward = format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        assert!(
            answer(&proxy, &forward)
                .await
                .unwrap()
                .starts_with("HTTP/1.1 403"),
            "{target}"
        );
    }
    assert_eq!(proxy.refused(), 2 * HOSTS.len() as u64);
    // And as nobody would write it but an attacker: what the system's resolver makes of it is judged.
    for host in [
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "LocalHost",
        "localhost.",
        "0",
        "::1",
        "[::ffff:7f00:1]",
    ] {
        let target = format!("{host}:{}", listener.port);
        let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let said = answer(&proxy, &connect).await.unwrap();
        assert!(
            said.starts_with("HTTP/1.1 4") || said.starts_with("HTTP/1.1 5"),
            "{target}: {said}"
        );
    }
    assert_eq!(listener.seen(), 0);
}

async fn answer(proxy: &GuardedProxy, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(proxy.address()).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    Ok(String::from_utf8_lossy(&start).into_owned())
}

#[test]
fn odd_addresses_are_refused_with_their_reason() {
    let guard = Guard::new(false);
    for (url, refused) in [
        ("ftp://example.org/", Refused::Scheme),
        ("file:///etc/passwd", Refused::Scheme),
        ("gopher://example.org/", Refused::Scheme),
        ("data:text/plain,x", Refused::Scheme),
        ("javascript:alert(1)", Refused::Scheme),
        ("ws://example.org/", Refused::Scheme),
        ("http://user@example.org/", Refused::Userinfo),
        ("http://user:word@example.org/", Refused::Userinfo),
        ("http://example.org@127.0.0.1/", Refused::Userinfo),
    ] {
        let url = Url::parse(url).unwrap();
        assert_eq!(guard.check(&url), Err(refused), "{url}");
        assert_eq!(Guard::new(true).check(&url), Err(refused), "{url}");
    }
    assert!(guard.check(&Url::parse("https://example.org/").unwrap()).is_ok());
    assert!(
        Guard::new(true)
            .check(&Url::parse("http://10.0.0.1/").unwrap())
            .is_ok()
    );
}

#[tokio::test]
async fn a_name_is_judged_by_where_it_leads() {
    let listener = Counting::start().await;
    for answers in [
        &["127.0.0.1"] as &[&str],
        &["::1"],
        &["::ffff:127.0.0.1"],
        &["169.254.169.254"],
        // One bad answer among good ones.
        &["93.184.216.34", "127.0.0.1"],
        &["127.0.0.1", "93.184.216.34"],
        &["2606:4700::1", "fe80::1"],
    ] {
        let guard = Guard::new(false).with_lookup(InTurn::new(&[answers]));
        let url = format!("http://page.test:{}/", listener.port);
        assert_eq!(
            get(&guard, &url).await.unwrap_err(),
            Refused::Address,
            "{answers:?}"
        );
    }
    assert_eq!(listener.seen(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_the_check_makes_no_connection() {
    let listener = Counting::start().await;
    let lookup = InTurn::new(&[&["93.184.216.34"], &["127.0.0.1"]]);
    let guard = Guard::new(false).with_lookup(lookup.clone());
    // A first look, as a check before the call would make it, sees a public address.
    assert!(guard.addresses("page.test", listener.port).await.is_ok());
    let url = format!("http://page.test:{}/", listener.port);
    assert_eq!(get(&guard, &url).await.unwrap_err(), Refused::Address);
    assert_eq!(lookup.asked(), 2);
    assert_eq!(listener.seen(), 0);
}

#[tokio::test]
async fn what_is_checked_is_what_is_dialled() {
    let listener = Counting::start().await;
    // Would lead elsewhere if it were asked a second time.
    let lookup = InTurn::new(&[&["127.0.0.1"], &["192.0.2.1"]]);
    let url = Url::parse(&format!("http://page.test:{}/", listener.port)).unwrap();
    let guard = Guard::new(false).trusting([&url]).with_lookup(lookup.clone());
    let client = client(&guard);
    let call = tokio::spawn(async move { client.get(url).send().await });
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while listener.seen() == 0 && tokio::time::Instant::now() < until {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert_eq!((listener.seen(), lookup.asked()), (1, 1));
}
