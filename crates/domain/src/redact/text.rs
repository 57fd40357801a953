//! Secrets and personal details inside free text, found in one pass over the bytes.
//!
//! Every match begins and ends at an ASCII byte, so cutting there never splits a character. Plain digit runs, dates, ids
//! and addresses of the net are not phone numbers.

use super::{REDACTED, REDACTED_EMAIL, REDACTED_PHONE};
use std::borrow::Cow;

/// What stands for a bearer.
const REDACTED_BEARER: &str = "Bearer [REDACTED]";
/// Shortest bearer, if it has a digit or a sign; and shortest of any kind.
const BEARER_CHARS: usize = 8;
const PLAIN_BEARER_CHARS: usize = 20;
/// Shortest rest of a key after `sk-`.
const KEY_CHARS: usize = 8;
/// Characters of this program's own API keys after `sk_agent_`.
const AGENT_KEY_CHARS: usize = 43;
/// Shortest part of a JWT.
const JWT_PART_CHARS: usize = 10;
/// Digits of an international phone number.
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 9..=15;

/// One place to be replaced: from, to, by what.
type Hit = (usize, usize, &'static str);

/// The text with every hit replaced; borrowed when there is none.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let (mut done, mut at) = (0, 0);
    while at < bytes.len() {
        match hit(bytes, at, done) {
            Some((from, to, replacement)) => {
                out.push_str(&text[done..from]);
                out.push_str(replacement);
                done = to;
                at = to;
            }
            None => at += 1,
        }
    }
    if done == 0 && out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The hit that begins at this byte, or, for an e-mail address, whose `@` is here.
fn hit(bytes: &[u8], at: usize, done: usize) -> Option<Hit> {
    match bytes[at] {
        b'b' | b'B' => bearer(bytes, at),
        b's' => key(bytes, at),
        b'e' => jwt(bytes, at),
        b'@' => email(bytes, at, done),
        b'+' => international_phone(bytes, at),
        b'(' | b'0'..=b'9' => grouped_phone(bytes, at),
        _ => None,
    }
}

/// Bytes from `at` on that are all of a kind.
fn run(bytes: &[u8], at: usize, kind: fn(u8) -> bool) -> usize {
    bytes[at.min(bytes.len())..]
        .iter()
        .take_while(|byte| kind(**byte))
        .count()
}

fn before(bytes: &[u8], at: usize) -> Option<u8> {
    at.checked_sub(1).map(|at| bytes[at])
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_sign(byte: u8) -> bool {
    matches!(byte, b'.' | b'_' | b'-' | b'/' | b'+' | b'=' | b'~')
}

fn is_bearer(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_sign(byte)
}

fn bearer(bytes: &[u8], at: usize) -> Option<Hit> {
    let word = bytes.get(at..at + 6)?;
    if !word.eq_ignore_ascii_case(b"bearer") || before(bytes, at).is_some_and(is_url_safe) {
        return None;
    }
    let blanks = run(bytes, at + 6, |byte| byte == b' ' || byte == b'\t');
    let start = at + 6 + blanks;
    let chars = run(bytes, start, is_bearer);
    let token = &bytes[start..start + chars];
    let marked = token.iter().any(|byte| byte.is_ascii_digit() || is_sign(*byte));
    let long_enough = chars >= PLAIN_BEARER_CHARS || (chars >= BEARER_CHARS && marked);
    (blanks > 0 && long_enough).then_some((at, start + chars, REDACTED_BEARER))
}

fn key(bytes: &[u8], at: usize) -> Option<Hit> {
    if before(bytes, at).is_some_and(is_url_safe) {
        return None;
    }
    let rest = &bytes[at..];
    let (prefix, least) = if rest.starts_with(b"sk-") {
        (3, KEY_CHARS)
    } else if rest.starts_with(b"sk_agent_") {
        (9, AGENT_KEY_CHARS)
    } else {
        return None;
    };
    let chars = run(bytes, at + prefix, is_url_safe);
    (chars >= least).then_some((at, at + prefix + chars, REDACTED))
}

fn jwt(bytes: &[u8], at: usize) -> Option<Hit> {
    if !bytes[at..].starts_with(b"eyJ") || before(bytes, at).is_some_and(is_url_safe) {
        return None;
    }
    let mut end = at;
    for part in 0..3 {
        if part > 0 {
            if bytes.get(end) != Some(&b'.') {
                return None;
            }
            end += 1;
        }
        let chars = run(bytes, end, is_url_safe);
        if chars < JWT_PART_CHARS {
            return None;
        }
        end += chars;
    }
    Some((at, end, REDACTED))
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-')
}

/// An address around the `@` at `at`; `done` is the end of the hit before it.
fn email(bytes: &[u8], at: usize, done: usize) -> Option<Hit> {
    let local = bytes[done..at]
        .iter()
        .rev()
        .take_while(|byte| is_local(**byte))
        .count();
    let domain = run(bytes, at + 1, |byte| {
        byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-'
    });
    let name = &bytes[at + 1..at + 1 + domain];
    // The last dot followed by two letters or more ends the name: a full stop or a path after it is not part of it.
    let dots = (1..name.len()).rev().filter(|at| name[*at] == b'.');
    let top = dots
        .map(|dot| (dot, run(name, dot + 1, |byte| byte.is_ascii_alphabetic())))
        .find_map(|(dot, letters)| (letters >= 2).then_some(dot + 1 + letters))?;
    (local > 0).then_some((at - local, at + 1 + top, REDACTED_EMAIL))
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'-' | b'.' | b'(' | b')')
}

fn international_phone(bytes: &[u8], at: usize) -> Option<Hit> {
    if before(bytes, at).is_some_and(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let mut next = at + 1;
    // Blanks belong between the digits, not after the sign.
    if !matches!(bytes.get(next), Some(b'0'..=b'9' | b'(')) {
        return None;
    }
    let (mut digits, mut first, mut last) = (0, None, None);
    loop {
        next += run(bytes, next, is_separator);
        let group = run(bytes, next, |byte| byte.is_ascii_digit());
        digits += group;
        next += group;
        if group == 0 {
            break;
        }
        if digits > *PHONE_DIGITS.end() {
            // Digits of something else follow, a date perhaps: the number ends where it could first end.
            last = first;
            break;
        }
        if PHONE_DIGITS.contains(&digits) {
            first = first.or(Some(next));
            last = Some(next);
        }
    }
    last.map(|end| (at, end, REDACTED_PHONE))
}

/// Ten digits as 3-3-4, with an optional 1 before them.
fn grouped_phone(bytes: &[u8], at: usize) -> Option<Hit> {
    let joined = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if before(bytes, at).is_some_and(joined) {
        return None;
    }
    let mut next = at;
    if bytes[next] == b'1' && bytes.get(next + 1).copied().is_some_and(is_separator) {
        next += 1 + run(bytes, next + 1, is_separator);
    } else if bytes[next] == b'(' {
        next += 1;
    }
    for (group, digits) in [3, 3, 4].into_iter().enumerate() {
        if group > 0 {
            let separators = run(bytes, next, is_separator);
            if !(1..=2).contains(&separators) {
                return None;
            }
            next += separators;
        }
        if run(bytes, next, |byte| byte.is_ascii_digit()) != digits {
            return None;
        }
        next += digits;
    }
    let free = !bytes.get(next).copied().is_some_and(joined);
    free.then_some((at, next, REDACTED_PHONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_go_goes() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r";
        let key = format!("sk_agent_{}", "a1B2-".repeat(9));
        for (text, expected) in [
            ("token=sk-live-123", "token=[REDACTED]"),
            ("Bearer aaa.bbb.ccc", "Bearer [REDACTED]"),
            (
                "authorization: bearer  abcdefghijklmnopqrst",
                "authorization: Bearer [REDACTED]",
            ),
            ("foo@bar.com", "[REDACTED_EMAIL]"),
            ("mail a.b+c@x-y.example.org.", "mail [REDACTED_EMAIL]."),
            ("<foo@bar.com>", "<[REDACTED_EMAIL]>"),
            ("+15551234567", "[REDACTED_PHONE]"),
            ("call +1 (555) 123-4567 now", "call [REDACTED_PHONE] now"),
            ("+15551234567 2026-11-20", "[REDACTED_PHONE] 2026-11-20"),
            (
                "+1 555 123 4567 2026-11-20 17:57",
                "[REDACTED_PHONE] 2026-11-20 17:57",
            ),
            ("555-123-4567", "[REDACTED_PHONE]"),
            ("(555) 123-4567", "[REDACTED_PHONE]"),
            ("1-555-123-4567", "[REDACTED_PHONE]"),
            ("tel:555.123.4567,", "tel:[REDACTED_PHONE],"),
            (jwt, "[REDACTED]"),
            (&key[..9 + 43], "[REDACTED]"),
            ("ü sk-12345678 ü a@b.ch ü", "ü [REDACTED] ü [REDACTED_EMAIL] ü"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn what_must_stay_stays() {
        for text in [
            "2026-11-20T17:57:27.238881Z",
            "2026-11-20T17:57:27.238881+00:00",
            "2026-11-20 17:57",
            "1790000000123",
            "order 123456789",
            "5551234567",
            "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0",
            "12345678-1234-1234-1234-123456789012",
            "10.128.15.240",
            "task-list",
            "risk-assessment",
            "Bearer of news",
            "forbearer aaa.bbb.ccc",
            "production.kubernetes.deployment",
            "v1.22.333",
            "a @ b",
            "@scope/name@1.2.3",
            "x=+12345678",
            "+12345678901234567890",
            "a-555-123-4567",
            "555-123-45678",
            "eyJhbGciOiJ.short.x",
            "Ünïcödé ∑ 漢字",
        ] {
            assert!(
                matches!(redact(text), Cow::Borrowed(_)),
                "{text}: {}",
                redact(text)
            );
        }
    }

    #[test]
    fn long_texts_of_nothing_but_beginnings_take_one_pass() {
        for piece in ["eyJ", "a@", "bearer ", "sk-", "+1 ", "(1", "1-"] {
            let text = piece.repeat(200_000);
            assert!(redact(&text).len() <= text.len() * 4);
        }
    }
}
