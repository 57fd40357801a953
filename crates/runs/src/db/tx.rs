//! A transaction in two round trips: `BEGIN` travels with the first reads, `COMMIT` with the last writes.
//!
//! A statement that fails makes the server answer `COMMIT` with a rollback, so a transaction is never half
//! done. A [`Tx`] that is dropped before its end (cancelled future) closes its connection: the server rolls back,
//! and no later user of the pool can get a connection that is inside a transaction.

use super::Db;
use crate::store::StoreError;
use deadpool_postgres::Object;
use futures::future::{FutureExt, MaybeDone, join, maybe_done};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// An owned statement parameter.
pub(crate) type Param = Box<dyn ToSql + Sync + Send>;

/// A statement and its parameters, to be sent later.
pub(crate) struct Statement {
    sql: &'static str,
    params: Vec<Param>,
}

impl Statement {
    pub(crate) fn new(sql: &'static str, params: Vec<Param>) -> Self {
        Self { sql, params }
    }
}

/// Boxes each argument as a statement parameter.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$(Box::new($value) as $crate::db::tx::Param),*] };
}
pub(crate) use params;

/// Runs one statement of its own and gives its rows.
pub(crate) async fn query(db: &Db, statement: Statement) -> Result<Vec<Row>, StoreError> {
    let client = db.client().await?;
    run(&client, statement).await
}

async fn run(client: &Object, statement: Statement) -> Result<Vec<Row>, StoreError> {
    let prepared = client.prepare_cached(statement.sql).await?;
    let params: Vec<&(dyn ToSql + Sync)> = statement
        .params
        .iter()
        .map(|param| &**param as &(dyn ToSql + Sync))
        .collect();
    Ok(client.query(&prepared, &params).await?)
}

/// An open transaction.
pub(crate) struct Tx {
    client: Option<Object>,
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

impl Tx {
    /// Opens a transaction and reads in it, all in one round trip (but for statements not prepared yet).
    pub(crate) async fn begin(db: &Db, reads: Vec<Statement>) -> Result<(Self, Vec<Vec<Row>>), StoreError> {
        let client = db.client().await?;
        prepare(&client, &reads).await?;
        let tx = Self { client: Some(client) };
        let (begun, rows) = {
            let client = tx.client()?;
            let reads = reads.into_iter().map(|read| run(client, read)).collect();
            join(client.batch_execute("BEGIN"), in_order(reads)).await
        };
        begun?;
        match rows.into_iter().collect() {
            Ok(rows) => Ok((tx, rows)),
            Err(error) => {
                tx.roll_back().await?;
                Err(error)
            }
        }
    }

    /// Reads inside the transaction.
    pub(crate) async fn read(&mut self, read: Statement) -> Result<Vec<Row>, StoreError> {
        run(self.client()?, read).await
    }

    /// Sends every write and `COMMIT` in one go; gives each write's rows.
    pub(crate) async fn commit(mut self, writes: Vec<Statement>) -> Result<Vec<Vec<Row>>, StoreError> {
        let client = self.client()?;
        prepare(client, &writes).await?;
        let writes = writes.into_iter().map(|write| run(client, write)).collect();
        let (rows, committed) = join(in_order(writes), client.batch_execute("COMMIT")).await;
        let rows: Result<Vec<_>, _> = rows.into_iter().collect();
        if committed.is_ok() {
            // The server has left the transaction either way; the connection may go back to the pool.
            drop(self.client.take());
        }
        let rows = rows?;
        committed?;
        Ok(rows)
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), StoreError> {
        self.client()?.batch_execute("ROLLBACK").await?;
        drop(self.client.take());
        Ok(())
    }

    fn client(&self) -> Result<&Object, StoreError> {
        self.client
            .as_ref()
            .ok_or_else(|| StoreError::row("transaction already ended"))
    }
}

/// Statements new to this connection are prepared before anything is sent, so that the rest pipelines.
async fn prepare(client: &Object, statements: &[Statement]) -> Result<(), StoreError> {
    for statement in statements {
        client.prepare_cached(statement.sql).await?;
    }
    Ok(())
}

/// Polls all futures in the given order, so that their requests leave in that order; waits for all.
async fn in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<MaybeDone<F>>>> = futures
        .into_iter()
        .map(|future| Box::pin(maybe_done(future)))
        .collect();
    poll_fn(|cx| {
        let mut pending = false;
        for future in &mut futures {
            pending |= future.poll_unpin(cx).is_pending();
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    futures
        .iter_mut()
        .filter_map(|future| future.as_mut().take_output())
        .collect()
}
