//! Server-sent events as the standard says, from bytes cut at any place. Pure: no IO.

/// One dispatched event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The id of this very frame; `None` for a transient one.
    pub id: Option<String>,
    /// Empty for the default event.
    pub event: String,
    pub data: String,
}

/// Turns a byte stream into frames.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a following line feed belongs to it.
    after_cr: bool,
    started: bool,
    frame: Frame,
    has_data: bool,
    retry_ms: Option<u64>,
}

impl Parser {
    /// The server's wish for the wait before a reconnect, in milliseconds.
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Takes the next bytes and gives the frames that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let mut frames = vec![];
        for &byte in bytes {
            let skip = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            if skip {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                frames.extend(self.end_line());
            } else {
                self.line.push(byte);
            }
        }
        frames
    }

    fn end_line(&mut self) -> Option<Frame> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if self.started {
            &*line
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(&line)
        };
        self.started = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value));
        None
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "data" => {
                if self.has_data {
                    self.frame.data.push('\n');
                }
                self.has_data = true;
                self.frame.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.frame.event),
            "id" if !value.contains('\0') => self.frame.id = Some(value.to_owned()),
            "retry" => self.retry_ms = value.parse().ok().or(self.retry_ms),
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Frame> {
        let frame = std::mem::take(&mut self.frame);
        std::mem::take(&mut self.has_data).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = "\u{feff}retry: 2000\n\n: comment\ndata: {\"type\":\"connected\"}\n\nid: 7\r\nevent: log\r\ndata: é1\r\ndata:two\r\n\r\nid:8\rdata\r\rdata: unfinished";

    fn frame(id: Option<&str>, event: &str, data: &str) -> Frame {
        Frame {
            id: id.map(str::to_owned),
            event: event.to_owned(),
            data: data.to_owned(),
        }
    }

    fn expected() -> Vec<Frame> {
        vec![
            frame(None, "", "{\"type\":\"connected\"}"),
            frame(Some("7"), "log", "é1\ntwo"),
            frame(Some("8"), "", ""),
        ]
    }

    #[test]
    fn reads_every_line_ending_comments_and_retry_and_drops_an_unfinished_frame() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(STREAM.as_bytes()), expected());
        assert_eq!(parser.retry_ms(), Some(2000));
    }

    proptest! {
        #[test]
        fn bytes_may_be_cut_anywhere(cuts in proptest::collection::vec(1usize..9, 1..80)) {
            let mut parser = Parser::default();
            let mut frames = vec![];
            let mut rest = STREAM.as_bytes();
            let mut cuts = cuts.into_iter().cycle();
            while !rest.is_empty() {
                let n = cuts.next().unwrap_or(1).min(rest.len());
                frames.extend(parser.push(&rest[..n]));
                rest = &rest[n..];
            }
            prop_assert_eq!(frames, expected());
        }
    }
}
