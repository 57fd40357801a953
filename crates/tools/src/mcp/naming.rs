//! What strangers call and describe things, made fit to be told to a model.

use domain::canonical::sha256_hex;
use serde_json::Value;

/// Before a tool's name.
pub(crate) const PREFIX: &str = "mcp__";
/// Longest name of a tool that models take.
const LONGEST_NAME: usize = 64;
/// Of the hash that ends a name which had to be cut.
const HASH: usize = 8;
/// Longest description, in characters.
const LONGEST_TEXT: usize = 2000;

/// `mcp__SERVER__TOOL` in the characters and the length that models take.
pub(crate) fn tool_name(server: &str, tool: &str) -> String {
    let plain = |char: char| {
        if char.is_ascii_alphanumeric() || matches!(char, '_' | '-') {
            char
        } else {
            '_'
        }
    };
    let name = format!(
        "{PREFIX}{server}__{}",
        tool.chars().map(plain).collect::<String>()
    );
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let hash = sha256_hex(tool);
    let hash = hash.strip_prefix("sha256:").unwrap_or(&hash);
    let kept: String = name.chars().take(LONGEST_NAME - HASH - 1).collect();
    format!("{kept}_{}", hash.chars().take(HASH).collect::<String>())
}

/// The server of a name, if it is one of ours.
pub(crate) fn server_of(name: &str) -> Option<&str> {
    let (server, _) = name.strip_prefix(PREFIX)?.split_once("__")?;
    Some(server)
}

/// Without what does not show: control characters, marks of direction, characters without width, tags.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .filter(|char| !is_hidden(*char))
        .take(LONGEST_TEXT)
        .collect()
}

fn is_hidden(char: char) -> bool {
    let control = char.is_control() && !matches!(char, '\n' | '\t');
    control
        || matches!(char,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The same in each text of a schema.
pub(crate) fn clean_all(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => items.iter().map(clean_all).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (clean(name), clean_all(value)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_have_the_characters_and_length_of_models() {
        assert_eq!(
            tool_name("time", "get_current_time"),
            "mcp__time__get_current_time"
        );
        assert_eq!(tool_name("a", "b.c/d é"), "mcp__a__b_c_d__");
        let (long, other) = (format!("{}1", "x".repeat(80)), format!("{}2", "x".repeat(80)));
        assert_eq!(tool_name("a", &long).len(), 64);
        assert_ne!(tool_name("a", &long), tool_name("a", &other));
        assert_eq!(server_of("mcp__time__get"), Some("time"));
        assert_eq!(server_of("time__get"), None);
    }

    #[test]
    fn what_does_not_show_is_taken_out() {
        assert_eq!(clean("a\u{202e}b\u{200b}c\x1b[0m\n\u{e0041}d"), "abc[0m\nd");
        assert_eq!(clean(&"x".repeat(9000)).len(), 2000);
        assert_eq!(
            clean_all(&json!({"a\u{200b}": ["\u{feff}b", 1]})),
            json!({"a": ["b", 1]})
        );
    }
}
