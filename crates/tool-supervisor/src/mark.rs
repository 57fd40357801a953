//! The start mark: of several starts of one Job, one runs the tool.

use crate::fetch::reserve;
use crate::http::{Fault, Store, StoreError, Target};
use std::io::Read;
use toolbox::wire::Order;

const WORD_BYTES: usize = 16;
/// Read of another's mark.
const MAX_BYTES: u64 = 256;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// We are the one, or the store cannot tell.
    Ours,
    Another,
}

/// Writes the mark. A try whose answer was lost may have written it: then its content tells.
pub(crate) fn write(store: &Store, order: &Order) -> Result<Mark, StoreError> {
    let word = word().map_err(|error| StoreError::Content(format!("no random word: {error}")))?;
    let written = store.tries(reserve(order), |left| {
        let body = (word.len() as u64, &mut word.as_bytes() as &mut dyn Read);
        store.send(&order.put.started, body, left, &[("if-none-match", "*")])
    });
    match written {
        Err(StoreError::Refused {
            status: 409 | 412, ..
        }) => read(store, order, &word),
        // A store that does not know conditions of writes: several starts of one Job are rare.
        Ok(())
        | Err(StoreError::Refused {
            status: 400 | 405 | 501,
            ..
        }) => Ok(Mark::Ours),
        Err(other) => Err(other),
    }
}

fn read(store: &Store, order: &Order, word: &str) -> Result<Mark, StoreError> {
    let target = Target {
        url: &order.mark_url,
        reserve: reserve(order),
    };
    let found = store.get(target, |body| {
        let mut text = vec![];
        body.take(MAX_BYTES).read_to_end(&mut text)?;
        Ok::<_, Fault>(text)
    })?;
    if found == word.as_bytes() {
        Ok(Mark::Ours)
    } else {
        Ok(Mark::Another)
    }
}

fn word() -> std::io::Result<String> {
    let mut bytes = [0; WORD_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
