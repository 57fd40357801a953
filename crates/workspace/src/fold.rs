//! Many store calls at a time, with a limit.

use domain::files::WorkspaceError;
use futures::{StreamExt, TryStreamExt};
use std::future::Future;

/// Transfers of one workspace at a time.
const CONCURRENCY: usize = 8;

/// Runs `each` for every item; the first error ends it. Results come in the order of the items.
pub(crate) async fn for_all<I, T, R, F>(items: I, each: impl Fn(T) -> F) -> Result<Vec<R>, WorkspaceError>
where
    I: IntoIterator<Item = T>,
    F: Future<Output = Result<R, WorkspaceError>>,
{
    futures::stream::iter(items)
        .map(each)
        .buffered(CONCURRENCY)
        .try_collect()
        .await
}
