//! MCP servers as runs name them.

use serde_json::Value;

/// Most servers of one run.
pub const MOST_SERVERS: usize = 16;
const LONGEST_NAME: usize = 32;

/// Whether a text can name a server: its tools are called `mcp__NAME__TOOL`.
pub fn is_server_name(text: &str) -> bool {
    let good = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
    (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(good) && !text.contains("__")
}

/// Reads the servers that a run asks for.
///
/// # Errors
/// Says what to send.
pub fn server_names(value: &Value) -> Result<Vec<String>, String> {
    let wanted = || format!("send a list of at most {MOST_SERVERS} names of servers");
    let items = value.as_array().filter(|items| items.len() <= MOST_SERVERS);
    let items = items.ok_or_else(wanted)?;
    let name = |item: &Value| {
        let name = item.as_str().ok_or_else(wanted)?;
        if is_server_name(name) {
            Ok(name.to_owned())
        } else {
            Err(format!(
                "a name has 1 to {LONGEST_NAME} letters, digits, - and single _"
            ))
        }
    };
    items.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_are_named_in_a_list() {
        assert_eq!(server_names(&json!(["a", "b-c_1"])).unwrap(), ["a", "b-c_1"]);
        assert!(server_names(&json!([])).unwrap().is_empty());
        for (wrong, said) in [
            (json!("a"), "send a list of at most 16 names of servers"),
            (json!([1]), "send a list of at most 16 names of servers"),
            (json!(vec!["x"; 17]), "send a list of at most 16 names of servers"),
            (
                json!(["a__b"]),
                "a name has 1 to 32 letters, digits, - and single _",
            ),
            (json!([""]), "a name has 1 to 32 letters, digits, - and single _"),
        ] {
            assert_eq!(server_names(&wrong).unwrap_err(), said, "{wrong}");
        }
    }
}
