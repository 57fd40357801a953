//! Faults between a client and a Redis.

use std::time::Duration;

use testkit::{FaultProxy, Redis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn dial(proxy: &FaultProxy) -> std::io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", proxy.port())).await
}

/// The reply to one inline command; empty = the connection was closed.
async fn ask(stream: &mut TcpStream, command: &str) -> String {
    stream
        .write_all(format!("{command}\r\n").as_bytes())
        .await
        .expect("write");
    let mut reply = [0; 4096];
    let count = stream.read(&mut reply).await.unwrap_or(0);
    String::from_utf8_lossy(&reply[..count]).into_owned()
}

#[tokio::test]
async fn a_cut_closes_and_refuses_until_restored() {
    let redis = Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    let mut stream = dial(&proxy).await.expect("open");
    assert_eq!(ask(&mut stream, "PING").await, "+PONG\r\n");
    proxy.cut();
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap_or(0), 0);
    assert!(dial(&proxy).await.is_err());
    proxy.restore();
    let mut stream = dial(&proxy).await.expect("open again");
    assert_eq!(ask(&mut stream, "PING").await, "+PONG\r\n");
}

#[tokio::test]
async fn a_stall_holds_bytes_back_and_later_delivers_them() {
    let redis = Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    proxy.stall();
    let mut stream = dial(&proxy).await.expect("accepted");
    let early = tokio::time::timeout(Duration::from_millis(150), ask(&mut stream, "SET k v")).await;
    assert!(early.is_err());
    assert_eq!(redis.cli(&["EXISTS", "k"]), "0");
    proxy.restore();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.expect("the reply");
    assert_eq!(&reply, b"+OK\r\n");
}

#[tokio::test]
async fn a_dropped_reply_leaves_the_command_executed() {
    let redis = Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    proxy.drop_reply_to("LPUSH");
    let mut stream = dial(&proxy).await.expect("open");
    assert_eq!(ask(&mut stream, "PING").await, "+PONG\r\n");
    assert_eq!(ask(&mut stream, "LPUSH list a").await, "");
    assert!(proxy.reply_dropping_is_used());
    assert_eq!(redis.cli(&["LRANGE", "list", "0", "-1"]), "a");
    let mut stream = dial(&proxy).await.expect("open");
    assert_eq!(ask(&mut stream, "LPUSH list b").await, ":2\r\n");
    assert_eq!(proxy.cuts(), 1);
}

#[tokio::test]
async fn connections_are_cut_after_so_many_bytes() {
    let redis = Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    proxy.cut_every(30);
    let mut stream = dial(&proxy).await.expect("open");
    assert_eq!(ask(&mut stream, "PING").await, "+PONG\r\n");
    assert_eq!(ask(&mut stream, "PING").await, "+PONG\r\n");
    assert_ne!(ask(&mut stream, "PING").await, "+PONG\r\n");
    proxy.restore();
    assert_eq!(
        ask(&mut dial(&proxy).await.expect("open"), "PING").await,
        "+PONG\r\n"
    );
}
