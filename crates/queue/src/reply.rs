//! Reading script answers.

use crate::error::QueueError;
use fred::types::Value;

/// A script's answer with the name to blame.
#[derive(Debug)]
pub(crate) struct Reply {
    operation: &'static str,
    value: Value,
}

impl Reply {
    pub(crate) fn new(operation: &'static str, value: Value) -> Self {
        Self { operation, value }
    }

    fn unexpected(&self) -> QueueError {
        QueueError::Unexpected {
            operation: self.operation,
        }
    }

    pub(crate) fn is_nil(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub(crate) fn rows(self) -> Result<Vec<Reply>, QueueError> {
        let operation = self.operation;
        match self.value {
            Value::Array(values) => Ok(values
                .into_iter()
                .map(|value| Reply { operation, value })
                .collect()),
            _ => Err(QueueError::Unexpected { operation }),
        }
    }

    /// Exactly `N` values.
    pub(crate) fn tuple<const N: usize>(self) -> Result<[Reply; N], QueueError> {
        let operation = self.operation;
        let unexpected = |_| QueueError::Unexpected { operation };
        self.rows()?.try_into().map_err(unexpected)
    }

    pub(crate) fn text(self) -> Result<String, QueueError> {
        let unexpected = self.unexpected();
        match self.value {
            Value::String(text) => Ok(text.to_string()),
            Value::Bytes(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Value::Integer(number) => Ok(number.to_string()),
            _ => Err(unexpected),
        }
    }

    /// An element as the bytes it has in Redis.
    pub(crate) fn bytes(self) -> Result<Vec<u8>, QueueError> {
        let unexpected = self.unexpected();
        match self.value {
            Value::String(text) => Ok(text.as_bytes().to_vec()),
            Value::Bytes(bytes) => Ok(bytes.to_vec()),
            _ => Err(unexpected),
        }
    }

    pub(crate) fn number(self) -> Result<i64, QueueError> {
        let unexpected = self.unexpected();
        match self.value {
            Value::Integer(number) => Ok(number),
            Value::String(text) => text.parse().map_err(|_| unexpected),
            Value::Boolean(yes) => Ok(i64::from(yes)),
            _ => Err(unexpected),
        }
    }
}

/// A script argument.
pub(crate) fn arg(value: impl ToString) -> Value {
    Value::from(value.to_string())
}
