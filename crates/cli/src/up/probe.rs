//! Asks again and again until a server answers as it should; the caller sets the time limit.

use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PAUSE: Duration = Duration::from_millis(15);
/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Until the question is answered with yes.
pub async fn until<F, Fut>(mut ask: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    while !ask().await {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until `GET path` on a loopback port answers 200.
pub async fn until_ok(port: u16, path: &'static str) {
    until(move || is_ok(port, path)).await;
}

async fn is_ok(port: u16, path: &str) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0_u8; 12];
        stream.read_exact(&mut head).await.ok()?;
        (&head[9..12] == b"200").then_some(())
    };
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, asked).await, Ok(Some(())))
}

/// Whether Postgres lets us in and answers a query.
pub async fn postgres_answers(url: String) -> bool {
    let asked = async {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.ok()?;
        let driver = tokio::spawn(connection);
        let answered = client.simple_query("SELECT 1").await.is_ok();
        drop(client);
        // Ends by itself once the client is gone; how it ended is of no interest.
        driver.abort();
        answered.then_some(())
    };
    matches!(tokio::time::timeout(ANSWER_TIMEOUT, asked).await, Ok(Some(())))
}
