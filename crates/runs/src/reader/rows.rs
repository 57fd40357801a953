//! A row as a JSON object: keys are the column names, values are told by the column types.

use crate::store::StoreError;
use domain::clock::wire_time;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

fn cell<'a, T: FromSql<'a>>(
    row: &'a Row,
    index: usize,
    show: impl Fn(T) -> Value,
) -> Result<Value, StoreError> {
    let value: Option<T> = row.try_get(index)?;
    Ok(value.map_or(Value::Null, show))
}

pub(crate) fn to_value(row: &Row) -> Result<Value, StoreError> {
    let mut object = Map::with_capacity(row.len());
    for (index, column) in row.columns().iter().enumerate() {
        let value = match *column.type_() {
            Type::UUID => cell(row, index, |id: Uuid| json!(id))?,
            Type::TEXT | Type::VARCHAR => cell(row, index, |text: String| Value::String(text))?,
            Type::INT4 => cell(row, index, |number: i32| json!(number))?,
            Type::INT8 => cell(row, index, |number: i64| json!(number))?,
            Type::FLOAT8 => cell(row, index, |number: f64| json!(number))?,
            Type::BOOL => cell(row, index, |flag: bool| json!(flag))?,
            Type::TIMESTAMPTZ => cell(row, index, |at: Timestamp| json!(wire_time(at)))?,
            Type::JSON | Type::JSONB => cell(row, index, |value: Value| value)?,
            ref other => return Err(StoreError::row(format!("column type {other} is not shown"))),
        };
        object.insert(column.name().to_owned(), value);
    }
    Ok(Value::Object(object))
}

pub(crate) fn to_values(rows: &[Row]) -> Result<Vec<Value>, StoreError> {
    rows.iter().map(to_value).collect()
}
