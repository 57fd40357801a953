//! A user's runs, newest first, with an opaque keyset cursor.

use super::Reader;
use super::rows::to_value;
use super::waiting::{explain, standing_columns};
use crate::authority::row::column;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::UserId;
use domain::status::RunStatus;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

/// Digits of a time in a cursor; enough until the year 2286.
const MICROS_DIGITS: usize = 16;

const LIST: &str = concat!(
    "SELECT id, status, prompt, created_at, completed_at, ",
    standing_columns!(),
    " FROM agent_runs r
    WHERE user_id = $1 AND ($2::text IS NULL OR status = $2)
      AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
    ORDER BY created_at DESC, id DESC LIMIT $5"
);

/// Which runs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunListQuery {
    pub status: Option<RunStatus>,
    /// At least 1.
    pub limit: u32,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A page of runs, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct RunList {
    /// `id`, `status`, `prompt`, `created_at`, `completed_at`, `waiting_for`.
    pub runs: Vec<Value>,
    /// Set when there are older ones.
    pub next_cursor: Option<String>,
}

/// The cursor is none of ours, or the store failed.
#[derive(Debug, thiserror::Error)]
pub enum BadCursor {
    #[error("cursor is not valid")]
    Cursor,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// 16 digits of microseconds and 32 of the id: opaque to clients, but with a shape that the API's description can state,
/// and every text of that shape is a place in the list.
fn encode(at: Timestamp, id: Uuid) -> String {
    format!(
        "{:0width$}{}",
        at.as_microsecond(),
        id.simple(),
        width = MICROS_DIGITS
    )
}

fn decode(cursor: &str) -> Option<(Timestamp, Uuid)> {
    let (at, id) = cursor.split_at_checked(MICROS_DIGITS)?;
    let digits = at.bytes().all(|byte| byte.is_ascii_digit());
    let hex = id.len() == uuid::fmt::Simple::LENGTH && !id.bytes().any(|byte| byte.is_ascii_uppercase());
    if !digits || !hex {
        return None;
    }
    Some((
        Timestamp::from_microsecond(at.parse().ok()?).ok()?,
        Uuid::try_parse(id).ok()?,
    ))
}

fn place(row: &Row) -> Result<String, StoreError> {
    Ok(encode(column(row, "created_at")?, column(row, "id")?))
}

impl Reader {
    /// A page of the user's runs.
    pub async fn list(&self, user: &UserId, page: &RunListQuery) -> Result<RunList, BadCursor> {
        let from = match &page.cursor {
            Some(cursor) => Some(decode(cursor).ok_or(BadCursor::Cursor)?),
            None => None,
        };
        let limit = page.limit.max(1) as usize;
        let params = params![
            user.0.clone(),
            page.status.map(RunStatus::as_str),
            from.map(|(at, _)| at),
            from.map(|(_, id)| id),
            limit as i64 + 1
        ];
        let rows = query(&self.db, Statement::new(LIST, params)).await?;
        let next_cursor = match rows.get(limit.wrapping_sub(1)) {
            Some(last) if rows.len() > limit => Some(place(last)?),
            _ => None,
        };
        let shown = |row: &Row| {
            let mut run = to_value(row)?;
            explain(row, &mut run)?;
            Ok::<_, StoreError>(run)
        };
        let runs = rows.iter().take(limit).map(shown).collect::<Result<_, _>>()?;
        Ok(RunList { runs, next_cursor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_round_trip_and_garbage_is_refused() {
        let at = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        assert_eq!(decode(&encode(at, Uuid::max())), Some((at, Uuid::max())));
        let upper = encode(at, Uuid::max()).to_uppercase();
        let short = &encode(at, Uuid::nil())[1..];
        for garbage in ["", "abc", "!!", "MTIz", &upper, short, &"é".repeat(24)] {
            assert_eq!(decode(garbage), None, "{garbage}");
        }
    }
}
