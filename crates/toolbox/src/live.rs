//! Lines of a supervisor's own standard output: live display of what the tool prints.
//!
//! A line is `{stream}{offset}:{length} {text}`, with `+` for the space where the tool has not ended its line. Stream is `o` or
//! `e`, offset counts the bytes of that stream before the text, length those of the text as the tool wrote it, its
//! line end included. The text is made valid UTF-8 for display only. Lines of another form are the supervisor's own words.

/// One of the two streams of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    Stdout,
    Stderr,
}

impl Channel {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Stdout => 'o',
            Self::Stderr => 'e',
        }
    }
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub channel: Channel,
    /// Bytes of this channel before this piece.
    pub offset: u64,
    /// Length in bytes of what the tool wrote, its line end included.
    pub length: u64,
    /// Without the line end.
    pub text: String,
    /// The tool ended the line here.
    pub ended: bool,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.ended { ' ' } else { '+' };
        write!(
            f,
            "{}{}:{}{mark}{}",
            self.channel.letter(),
            self.offset,
            self.length,
            self.text
        )
    }
}

impl Line {
    /// Reads a line without its end; nothing when it is none of these.
    pub fn parse(line: &str) -> Option<Self> {
        let mut letters = line.chars();
        let channel = match letters.next()? {
            'o' => Channel::Stdout,
            'e' => Channel::Stderr,
            _ => return None,
        };
        let rest = letters.as_str();
        let mark = rest.find([' ', '+'])?;
        let (offset, length) = rest.get(..mark)?.split_once(':')?;
        Some(Self {
            channel,
            offset: offset.parse().ok()?,
            length: length.parse().ok()?,
            text: rest.get(mark + 1..)?.to_owned(),
            ended: rest.get(mark..=mark)? == " ",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Channel, Line};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_comes_back_as_it_was_written(offset: u64, length: u64, text in "[^\n\r]*", ended: bool, err: bool) {
            let channel = if err { Channel::Stderr } else { Channel::Stdout };
            let line = Line { channel, offset, length, text, ended };
            prop_assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
    }

    #[test]
    fn other_words_are_no_lines() {
        for other in [
            "",
            "o",
            "o12",
            "o12 text",
            "x1:2 text",
            "fetching the workspace",
            "o-1:2 text",
        ] {
            assert_eq!(Line::parse(other), None, "{other}");
        }
    }
}
