//! Short sessions for set-up.

use tokio_postgres::{Client, NoTls};

pub(super) fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

pub(super) async fn connect(
    url: &str,
) -> Result<(Client, tokio::task::JoinHandle<()>), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let session = tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("testkit: database session: {error}");
        }
    });
    Ok((client, session))
}

pub(super) async fn try_execute(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, session) = connect(url).await?;
    let result = client.batch_execute(sql).await;
    drop(client);
    session.await.expect("a session does not panic");
    result
}

pub(super) async fn execute(url: &str, sql: &str) {
    try_execute(url, sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
