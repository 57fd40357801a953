//! Shell files of `NAME=value` lines: written so that `source`, `set -a; . file` and we ourselves read the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Name to value; an empty value counts as absent and is never in it.
pub type Values = BTreeMap<String, String>;

/// One line per value, in the given order, each value in single quotes.
pub fn render(values: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in values {
        // Writing into a String cannot fail.
        writeln!(text, "{name}={}", quote(value)).unwrap_or_default();
    }
    text
}

/// A shell word that stands for exactly this text.
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Reads what [`render`] wrote and what people write by hand: comments, `export `, single or double quotes or none.
pub fn parse(text: &str) -> Values {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let value = unquote(value.trim());
    (!value.is_empty()).then(|| (name.to_owned(), value))
}

fn unquote(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    let mut chars = word.chars();
    let mut within: Option<char> = None;
    while let Some(c) = chars.next() {
        match (within, c) {
            (None, '\'' | '"') => within = Some(c),
            (Some(quote), c) if c == quote => within = None,
            (None | Some('"'), '\\') => text.extend(chars.next()),
            (None, '#') if text.ends_with(char::is_whitespace) => return text.trim_end().to_owned(),
            (_, c) => text.push(c),
        }
    }
    text
}

/// The process's environment over `.env` of the working directory, as the programs themselves read it.
pub fn process() -> Values {
    let mut values = std::fs::read_to_string(".env").map_or_else(|_| Values::new(), |text| parse(&text));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    values.extend(environment.filter(|(_, value)| !value.is_empty()));
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_written_files_are_read() {
        let values = parse("# c\nexport A=1\nB=\"two words\"\nC='it'\\''s'\nD=\n E = x # note\n");
        assert_eq!(values["A"], "1");
        assert_eq!(values["B"], "two words");
        assert_eq!(values["C"], "it's");
        assert!(!values.contains_key("D"));
        assert_eq!(values["E"], "x");
    }

    #[test]
    fn the_shell_reads_what_we_write() {
        let value = "a b'c\"d$HOME`id`\\e!";
        let text = render(&[("X", value.to_owned())]);
        let script = format!("{text}printf %s \"$X\"");
        let shown = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(shown.stdout).unwrap(), value);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in "[^\u{0}-\u{1f}]{1,40}") {
            let text = render(&[("X", value.clone())]);
            let read = parse(&text);
            prop_assert_eq!(read.get("X"), Some(&value));
        }
    }
}
