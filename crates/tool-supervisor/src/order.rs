//! Reading the order.

use std::io::Read;
use std::path::Path;
use toolbox::tree::is_sha256;
use toolbox::wire::{ORDER_DIR, ORDER_FILE, Order, VERSION, WORKSPACE_DIR};

/// A Secret holds at most 1 MiB.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// Reads and checks it; the text of an error holds nothing of it.
pub(crate) fn read() -> Result<Order, String> {
    let path = Path::new(ORDER_DIR).join(ORDER_FILE);
    let mut text = String::new();
    let file = std::fs::File::open(&path).map_err(|error| format!("no order: {error}"))?;
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| format!("the order cannot be read: {error}"))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Order, String> {
    // Not serde's own text: it may quote a URL.
    let order: Order = serde_json::from_str(text).map_err(|error| {
        format!(
            "the order is not of our form, line {} column {}",
            error.line(),
            error.column()
        )
    })?;
    if order.version != VERSION {
        return Err(format!(
            "the order is of version {}, not {VERSION}",
            order.version
        ));
    }
    let below = order.working_dir.strip_prefix(WORKSPACE_DIR);
    let inside = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !inside || order.working_dir.split('/').any(|part| part == "..") {
        return Err("the order's working_dir is not inside /workspace".to_owned());
    }
    if !is_sha256(&order.spec_hash) || order.job_uid.is_empty() || order.timeout_ms == 0 {
        return Err("the order's spec_hash, job_uid or timeout_ms is wrong".to_owned());
    }
    Ok(order)
}
