//! Plain SQL past the proxies, on a connection that is made again when it broke.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

/// Name of the harness's own sessions, so that faults spare them.
pub const SESSION_NAME: &str = "chaos";

/// One session to one database.
#[derive(Debug)]
pub struct Sql {
    url: String,
    client: Option<Client>,
}

impl Sql {
    pub fn new(url: &str) -> Self {
        Self {
            url: format!("{url}?application_name={SESSION_NAME}&connect_timeout=5"),
            client: None,
        }
    }

    /// Rows, or why not; a broken session is made again by the next call.
    pub async fn rows(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, String> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.url).await?,
        };
        let rows = client
            .query(sql, params)
            .await
            .map_err(|error| format!("{error:?}"))?;
        self.client = Some(client);
        Ok(rows)
    }

    /// Rows; tried again until the database answers.
    pub async fn insist(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        loop {
            match self.rows(sql, params).await {
                Ok(rows) => return rows,
                Err(error) if error.contains("SqlState(E42") => panic!("{sql}: {error}"),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }
}

async fn connect(url: &str) -> Result<Client, String> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .map_err(|error| error.to_string())?;
    // It ends when the client is dropped; a broken session is met by the next query.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
