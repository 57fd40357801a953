//! Where a stream begins: the table of cursors, decided before a byte is sent.
//!
//! | request | answer |
//! | --- | --- |
//! | no position | from seq 1; `tail=N` N before the newest; `since` after older ones |
//! | `Last-Event-ID` or `after` in range (the header wins) | strictly after it |
//! | at or past the end of a finished run | 204 |
//! | past the newest seq of an unfinished run | 400 `cursor_ahead` |
//! | no whole number ≥ 0, too big, or several values | 400 `invalid_cursor` |

use crate::error::Problem;
use crate::extract::Query;
use crate::fields::Fields;
use http::HeaderMap;
use jiff::Timestamp;

/// What the request says of its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// `Last-Event-ID`, else `after`: the last seq already seen.
    pub after: Option<i64>,
    pub tail: Option<i64>,
    pub since: Option<Timestamp>,
}

/// A run's newest seq, and whether it was its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub last_seq: i64,
    pub finished: bool,
}

/// How the request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Stream strictly after this seq.
    After(i64),
    /// 204: there is nothing more, and never will be.
    Nothing,
    /// 400 `cursor_ahead`.
    Ahead,
}

impl Asked {
    pub fn parse(headers: &HeaderMap, query: &Query) -> Result<Self, Problem> {
        let after = position(headers, query)?;
        let mut fields = Fields::of_query(query);
        let asked = Self {
            after,
            tail: fields.int("tail", 0..=i64::MAX),
            since: fields.time("since"),
        };
        fields.finish().map(|()| asked)
    }

    /// `not_newer` is the last seq not newer than `since`, 0 without one.
    pub fn open(&self, head: Head, not_newer: i64) -> Opening {
        let from_tail = self.tail.map(|tail| (head.last_seq - tail).max(0));
        let start = self.after.or(from_tail).unwrap_or(0).max(not_newer);
        if head.finished && start >= head.last_seq {
            Opening::Nothing
        } else if start > head.last_seq {
            Opening::Ahead
        } else {
            Opening::After(start)
        }
    }
}

fn position(headers: &HeaderMap, query: &Query) -> Result<Option<i64>, Problem> {
    let of_header: Vec<&str> = headers
        .get_all("last-event-id")
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    // Both are looked at, so that a wrong one is never passed over.
    let (header, query) = (one(&of_header)?, one(&query.all("after"))?);
    Ok(header.or(query))
}

fn one(given: &[&str]) -> Result<Option<i64>, Problem> {
    match given {
        [] => Ok(None),
        [text] => parse(text.trim()).map(Some).ok_or_else(invalid),
        _ => Err(invalid()),
    }
}

fn parse(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn invalid() -> Problem {
    Problem::bad_request("invalid_cursor", "Invalid stream position")
}

/// The refusal for [`Opening::Ahead`].
pub fn ahead() -> Problem {
    Problem::bad_request("cursor_ahead", "Stream position is beyond the newest event")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(header: &[&str], query: &str) -> Result<Asked, &'static str> {
        let pairs = header
            .iter()
            .map(|value| ("last-event-id".parse().unwrap(), value.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name;
            headers.append(name, value);
        }
        Asked::parse(&headers, &Query::parse(query)).map_err(|problem| problem.code)
    }

    fn opening(header: &[&str], query: &str, last_seq: i64, finished: bool) -> Result<Opening, &'static str> {
        Ok(asked(header, query)?.open(Head { last_seq, finished }, 0))
    }

    #[test]
    fn the_table_of_cursors_is_complete() {
        let cases: [(&[&str], &str, i64, bool, Opening); 14] = [
            (&[], "", 9, false, Opening::After(0)),
            (&[], "", 9, true, Opening::After(0)),
            (&[], "after=4", 9, false, Opening::After(4)),
            (&["5"], "after=4", 9, false, Opening::After(5)),
            (&["9"], "", 9, false, Opening::After(9)),
            (&["10"], "", 9, false, Opening::Ahead),
            (&["8"], "", 9, true, Opening::After(8)),
            (&["9"], "", 9, true, Opening::Nothing),
            (&["10"], "", 9, true, Opening::Nothing),
            (&["9223372036854775807"], "", 9, false, Opening::Ahead),
            (&[], "tail=0", 9, false, Opening::After(9)),
            (&[], "tail=2", 9, false, Opening::After(7)),
            (&[], "tail=200", 9, false, Opening::After(0)),
            (&["0"], "", 9, false, Opening::After(0)),
        ];
        for (header, query, last_seq, finished, expected) in cases {
            assert_eq!(
                opening(header, query, last_seq, finished),
                Ok(expected),
                "{header:?} {query}"
            );
        }
    }

    #[test]
    fn a_position_that_is_no_seq_is_refused_and_never_replays() {
        for bad in [
            "-1",
            "abc",
            "9223372036854775808",
            "1.0",
            "+1",
            "0x1",
            "",
            "1 2",
            "٣",
        ] {
            let encoded = percent_encoding::utf8_percent_encode(bad, percent_encoding::NON_ALPHANUMERIC);
            assert_eq!(
                asked(&[], &format!("after={encoded}")),
                Err("invalid_cursor"),
                "{bad}"
            );
            if bad.is_ascii() {
                assert_eq!(asked(&[bad], ""), Err("invalid_cursor"), "{bad}");
            }
        }
        assert_eq!(asked(&["1", "2"], ""), Err("invalid_cursor"));
        assert_eq!(asked(&["1"], "after=abc"), Err("invalid_cursor"));
        assert_eq!(asked(&[], "after=1&after=1"), Err("invalid_cursor"));
    }

    #[test]
    fn a_bad_since_or_tail_is_a_validation_fault() {
        assert_eq!(asked(&[], "since=yesterday"), Err("validation_error"));
        assert_eq!(asked(&[], "tail=-1"), Err("validation_error"));
    }

    #[test]
    fn since_moves_the_start_forward_only() {
        let asked = asked(&[], "after=3").unwrap();
        let head = Head {
            last_seq: 9,
            finished: false,
        };
        assert_eq!(asked.open(head, 5), Opening::After(5));
        assert_eq!(asked.open(head, 1), Opening::After(3));
    }
}
