//! A transaction in two round trips: `BEGIN` travels with the first reads, `COMMIT` with the last writes.
//!
//! A statement that fails makes the server answer `COMMIT` with a rollback, so a transaction is never half
//! done. A transaction for a user says so first, in the same round trip. A [`Tx`] that is dropped before its end (cancelled future) closes its connection: the server rolls back,
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
use tracing::Instrument as _;

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

/// For whom a transaction acts, until its end.
const ACT_FOR: &str = "SELECT set_config('app.actor', 'user', true), set_config('app.user_id', $1, true)";

/// What must come first in a transaction: nothing, when it acts for the system.
fn opening(db: &Db) -> Option<Statement> {
    let user = db.user()?;
    Some(Statement::new(ACT_FOR, params![user.0.clone()]))
}

/// Runs one statement of its own and gives its rows.
pub(crate) async fn query(db: &Db, statement: Statement) -> Result<Vec<Row>, StoreError> {
    if let Some(opening) = opening(db) {
        let mut rows = whole(db, vec![opening, statement]).await?;
        return Ok(rows.pop().unwrap_or_default());
    }
    let client = db.client().await?;
    let prepared = client.prepare_cached(statement.sql).await?;
    run(&client, (prepared, statement.params)).await
}

/// A whole transaction without reads, in one round trip. A single statement is a transaction by itself.
pub(crate) async fn write(db: &Db, mut writes: Vec<Statement>) -> Result<(), StoreError> {
    if writes.len() == 1
        && let Some(only) = writes.pop()
    {
        return query(db, only).await.map(drop);
    }
    let statements = opening(db).into_iter().chain(writes).collect();
    whole(db, statements).await.map(drop)
}

/// A transaction of these statements, in one round trip; gives each one's rows.
async fn whole(db: &Db, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, StoreError> {
    let client = db.client().await?;
    let statements = prepare(&client, statements).await?;
    let tx = Tx { client: Some(client) };
    let (begun, committed) = join(
        tx.client()?.batch_execute("BEGIN"),
        tx.write_and_commit(statements),
    )
    .await;
    begun?;
    tx.give_back(committed)
}

/// A statement the server knows already, and its parameters.
type Prepared = (tokio_postgres::Statement, Vec<Param>);

async fn run(client: &Object, (prepared, params): Prepared) -> Result<Vec<Row>, StoreError> {
    let params: Vec<&(dyn ToSql + Sync)> = params
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
        let opening = opening(db);
        let opened = opening.is_some();
        let reads = prepare(&client, opening.into_iter().chain(reads).collect()).await?;
        let tx = Self { client: Some(client) };
        let (begun, rows) = {
            let client = tx.client()?;
            let reads = reads.into_iter().map(|read| run(client, read)).collect();
            join(client.batch_execute("BEGIN"), in_order(reads)).await
        };
        begun?;
        let rows: Result<Vec<_>, _> = rows.into_iter().collect();
        match rows {
            Ok(mut rows) => {
                rows.drain(..usize::from(opened));
                Ok((tx, rows))
            }
            Err(error) => {
                tx.roll_back().await?;
                Err(error)
            }
        }
    }

    /// Reads inside the transaction.
    pub(crate) async fn read(&mut self, read: Statement) -> Result<Vec<Row>, StoreError> {
        let client = self.client()?;
        let prepared = client.prepare_cached(read.sql).await?;
        run(client, (prepared, read.params)).await
    }

    /// Sends every write and `COMMIT` in one go; gives each write's rows.
    pub(crate) async fn commit(self, writes: Vec<Statement>) -> Result<Vec<Vec<Row>>, StoreError> {
        let writes = prepare(self.client()?, writes).await?;
        let committed = self.write_and_commit(writes).await;
        self.give_back(committed)
    }

    async fn write_and_commit(&self, writes: Vec<Prepared>) -> Result<Written, StoreError> {
        let client = self.client()?;
        let statements = writes.len();
        let writes = writes.into_iter().map(|write| run(client, write)).collect();
        let span = tracing::trace_span!(target: "traces", "runtime.persist", otel.kind = "client",
            db.system.name = "postgresql", db.operation.batch.size = statements);
        let written = join(in_order(writes), client.batch_execute("COMMIT"));
        let (rows, committed) = written.instrument(span).await;
        Ok(Written { rows, committed })
    }

    /// The server has left the transaction when it answered `COMMIT`, whatever became of the writes; then the connection
    /// may go back to the pool.
    fn give_back(mut self, written: Result<Written, StoreError>) -> Result<Vec<Vec<Row>>, StoreError> {
        let Written { rows, committed } = written?;
        if committed.is_ok() {
            drop(self.client.take());
        }
        let rows: Result<Vec<_>, _> = rows.into_iter().collect();
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

/// The answers to the writes of a transaction and to its `COMMIT`.
struct Written {
    rows: Vec<Result<Vec<Row>, StoreError>>,
    committed: Result<(), tokio_postgres::Error>,
}

/// Statements new to this connection are prepared before anything is sent, so that the rest pipelines.
async fn prepare(client: &Object, statements: Vec<Statement>) -> Result<Vec<Prepared>, StoreError> {
    let mut prepared = Vec::with_capacity(statements.len());
    for Statement { sql, params } in statements {
        prepared.push((client.prepare_cached(sql).await?, params));
    }
    Ok(prepared)
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
