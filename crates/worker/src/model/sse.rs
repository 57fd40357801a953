//! An incremental parser of server-sent events.
//!
//! Invariant: the events found do not depend on where the chunks are cut. Lines may end in LF, CR or CRLF, also
//! with the CR and the LF in different chunks. Several `data` lines are joined by LF. Comments, `id` and
//! `retry` are passed over. Memory is bounded by [`MAX_EVENT_BYTES`].

/// An event may hold at most this much (bytes), its present line included.
pub const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// One event: its name, when given, and its data lines joined by LF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    pub event: Option<String>,
    pub data: String,
}

/// An event grew beyond [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_EVENT_BYTES} bytes")]
pub struct EventTooLarge;

/// The parser's state between two chunks.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    event: Option<String>,
    data: Option<String>,
    /// The last byte was a CR: a LF right after it belongs to the same line end.
    after_cr: bool,
    /// The first line is behind us (it may start with a byte order mark).
    started: bool,
}

impl SseParser {
    /// Takes the next bytes and gives the events they complete.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<SseEvent>, EventTooLarge> {
        let mut events = Vec::new();
        for &byte in chunk {
            let ends_crlf = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            if ends_crlf {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                events.extend(self.end_line());
            } else {
                self.line.push(byte);
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT_BYTES {
                return Err(EventTooLarge);
            }
        }
        Ok(events)
    }

    /// The end of the stream: an event whose lines are whole but which lacks its blank line still counts.
    pub fn finish(&mut self) -> Option<SseEvent> {
        self.line.clear();
        self.dispatch()
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if self.started {
            &*line
        } else {
            self.started = true;
            line.trim_start_matches('\u{feff}')
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.add_data(value),
            "event" => self.event = Some(value.to_owned()),
            _ => {}
        }
        None
    }

    fn add_data(&mut self, value: &str) {
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        let event = self.event.take().filter(|name| !name.is_empty());
        self.data.take().map(|data| SseEvent { event, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        let mut events = parser.push(text.as_bytes()).unwrap();
        events.extend(parser.finish());
        events
    }

    fn event(name: Option<&str>, data: &str) -> SseEvent {
        SseEvent {
            event: name.map(str::to_owned),
            data: data.to_owned(),
        }
    }

    #[test]
    fn names_data_comments_and_unknown_fields_are_told_apart() {
        let text = "\u{feff}: hello\nevent: ping\ndata: {\"a\": 1}\nid: 7\nretry: 5\n\ndata:x\nnonsense\n\n";
        assert_eq!(
            parse(text),
            vec![event(Some("ping"), "{\"a\": 1}"), event(None, "x")]
        );
    }

    #[test]
    fn data_lines_are_joined_and_an_event_without_data_is_none() {
        assert_eq!(
            parse("data: a\ndata\ndata:  b\n\nevent: x\n\n"),
            vec![event(None, "a\n\n b")]
        );
    }

    #[test]
    fn every_line_end_is_understood() {
        let expected = vec![event(None, "a\nb"), event(None, "c")];
        for end in ["\n", "\r", "\r\n"] {
            let text = ["data: a", "data: b", "", "data: c", "", ""].join(end);
            assert_eq!(parse(&text), expected, "{end:?}");
        }
    }

    #[test]
    fn a_whole_line_at_the_end_counts_and_half_a_line_does_not() {
        assert_eq!(parse("data: [DONE]\n"), vec![event(None, "[DONE]")]);
        assert_eq!(parse("data: {\"cut"), vec![]);
    }

    #[test]
    fn an_event_beyond_the_cap_is_refused() {
        let mut parser = SseParser::default();
        let line = format!("data: {}\n", "x".repeat(MAX_EVENT_BYTES / 4));
        let refused = (0..5).any(|_| parser.push(line.as_bytes()).is_err());
        assert!(refused);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_cuts_between_chunks_do_not_matter(
            lines in prop::collection::vec("(data: ?[a-zé€😀:]{0,5}|event: [a-z]{0,3}|: c|)", 0..20),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 20),
            cuts in prop::collection::vec(1usize..7, 1..40),
        ) {
            let text: String = lines.iter().zip(&ends).map(|(line, end)| format!("{line}{end}")).collect();
            let whole = parse(&text);
            let mut parser = SseParser::default();
            let mut found = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                found.extend(parser.push(head).unwrap());
                rest = tail;
            }
            found.extend(parser.finish());
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut parser = SseParser::default();
            prop_assert!(parser.push(&bytes).is_ok());
        }
    }
}
