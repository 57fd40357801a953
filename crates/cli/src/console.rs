//! Writing for people and for pipes: data on stdout, messages on stderr, colours only on a terminal.

use crate::failure::Failure;
use std::io::{IsTerminal as _, Write as _};

/// How a piece of text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Red => "\x1b[31m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Cyan => "\x1b[36m",
        }
    }
}

/// Where a command writes. `NO_COLOR` (any non-empty value) and `TERM=dumb` switch colours off.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    colour_out: bool,
    colour_err: bool,
}

impl Console {
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            colour_out: wanted && std::io::stdout().is_terminal(),
            colour_err: wanted && std::io::stderr().is_terminal(),
        }
    }

    /// Never a colour.
    pub const fn plain() -> Self {
        Self {
            colour_out: false,
            colour_err: false,
        }
    }

    /// Text for stdout.
    pub fn paint(&self, style: Style, text: &str) -> String {
        paint(self.colour_out, style, text)
    }

    /// Text for stderr.
    pub fn paint_note(&self, style: Style, text: &str) -> String {
        paint(self.colour_err, style, text)
    }

    /// A line of data.
    pub fn out(&self, line: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        Ok(())
    }

    /// Bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// A message; nothing is left to do when stderr itself is gone.
    pub fn note(&self, line: &str) {
        writeln!(std::io::stderr().lock(), "{line}").unwrap_or_default();
    }

    /// A failure with its remedy on a line of its own.
    pub fn failure(&self, failure: &Failure) {
        if failure.what.is_empty() {
            return;
        }
        let mut line = format!("{} {}", self.paint_note(Style::Red, "error:"), failure.what);
        if let Some(why) = &failure.why {
            line.push_str(": ");
            line.push_str(why);
        }
        self.note(&line);
        if let Some(fix) = &failure.fix {
            self.note(&format!("{}   {fix}", self.paint_note(Style::Cyan, "fix:")));
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

fn paint(on: bool, style: Style, text: &str) -> String {
    if on && style != Style::Plain {
        format!("{}{text}\x1b[0m", style.code())
    } else {
        text.to_owned()
    }
}

/// Text from outside, safe to show on a terminal: control characters but newline and tab become visible.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// The first line of a text, cut at `max` characters.
pub fn one_line(text: &str, max: usize) -> String {
    let text = harmless(text);
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= max && first.len() == text.trim_end().len() {
        return first.to_owned();
    }
    let cut: String = first.chars().take(max.saturating_sub(1)).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_of_others_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
    }

    #[test]
    fn one_line_cuts_long_and_many_lined_text() {
        assert_eq!(one_line("short", 10), "short");
        assert_eq!(one_line("two\nlines", 10), "two…");
        assert_eq!(one_line("0123456789abc", 10), "012345678…");
    }
}
