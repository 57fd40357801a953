//! The secrets this process knows, in every form in which they are likely to turn up: as they are, in lines, in
//! base64 (both alphabets, at each of the three offsets), hexadecimal, URL and JSON escapes.

use super::REDACTED;
use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Shorter secrets are not searched for: they would hit ordinary words.
pub const MIN_SECRET_BYTES: usize = 8;

/// Shorter secrets of nothing but lower-case letters are taken for words.
const MAX_WORD_BYTES: usize = 16;

/// Whether a secret can be told from an ordinary word: `postgres` as a password cannot.
pub fn is_searchable(secret: &str) -> bool {
    let word = secret.len() < MAX_WORD_BYTES && secret.bytes().all(|byte| byte.is_ascii_lowercase());
    secret.len() >= MIN_SECRET_BYTES && !word
}

/// The password in `scheme://user:password@host`, decoded.
pub fn url_password(url: &str) -> Option<String> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let password = authority.rsplit_once('@')?.0.split_once(':')?.1;
    let decoded = percent_decode_str(password).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// A search for all forms of all secrets at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Option<Arc<Search>>);

#[derive(Debug)]
struct Search {
    automaton: AhoCorasick,
    /// Bytes of the longest form.
    longest: usize,
}

impl Known {
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let forms: BTreeSet<String> = secrets.into_iter().flat_map(forms).collect();
        let longest = forms.iter().map(String::len).max().unwrap_or(0);
        // The longest form wins where one begins with another: no tail of a secret stays behind.
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&forms)
            .ok()
            .filter(|_| longest > 0);
        Self(automaton.map(|automaton| Arc::new(Search { automaton, longest })))
    }

    pub(super) fn replace<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.0 {
            Some(search) if search.automaton.is_match(text) => {
                let mut out = String::with_capacity(text.len());
                search.automaton.replace_all_with(text, &mut out, |_, _, out| {
                    out.push_str(REDACTED);
                    true
                });
                Cow::Owned(out)
            }
            _ => Cow::Borrowed(text),
        }
    }

    pub(super) fn chunks(&self) -> ChunkRedactor {
        ChunkRedactor {
            search: self.0.clone(),
            held: vec![],
        }
    }
}

/// Every form of one secret that is long enough to be searched for.
fn forms(secret: &str) -> Vec<String> {
    let mut all = vec![];
    for part in std::iter::once(secret).chain(secret.lines()) {
        let part = part.trim();
        if !is_searchable(part) {
            continue;
        }
        all.push(part.to_owned());
        all.push(utf8_percent_encode(part, NON_ALPHANUMERIC).to_string());
        let json = serde_json::Value::from(part).to_string();
        all.push(json[1..json.len() - 1].to_owned());
        all.push(crate::canonical::hex(part.as_bytes()));
        all.push(crate::canonical::hex(part.as_bytes()).to_uppercase());
        for offset in 0..3 {
            all.extend(base64_at(part, offset));
        }
    }
    all.retain(|form| form.len() >= MIN_SECRET_BYTES);
    all
}

/// The characters that base64 makes of the secret alone when `offset` foreign bytes (modulo 3) stand before it.
fn base64_at(secret: &str, offset: usize) -> [String; 2] {
    let mut bytes = vec![0; offset];
    bytes.extend_from_slice(secret.as_bytes());
    // Characters that also carry foreign bits, before and after, are left out.
    let first = (offset * 8).div_ceil(6);
    let end = bytes.len() * 8 / 6;
    [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)].map(|text| text[first..end].to_owned())
}

/// Replaces known secrets in bytes that come in pieces, also where a secret lies across a border: as many bytes as a
/// secret can have begun in are held back until the next piece or the end.
#[derive(Debug, Default)]
pub struct ChunkRedactor {
    search: Option<Arc<Search>>,
    held: Vec<u8>,
}

impl ChunkRedactor {
    /// The bytes that are certain by now.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        let Some(search) = &self.search else {
            return chunk.to_vec();
        };
        self.held.extend_from_slice(chunk);
        let keep_from = self.held.len().saturating_sub(search.longest - 1);
        let (mut out, mut done) = (vec![], 0);
        for found in search.automaton.find_iter(&self.held) {
            // A match that begins in the part to be held might grow with the next piece.
            if found.start() >= keep_from {
                break;
            }
            out.extend_from_slice(&self.held[done..found.start()]);
            out.extend_from_slice(REDACTED.as_bytes());
            done = found.end();
        }
        let until = keep_from.max(done);
        out.extend_from_slice(&self.held[done..until]);
        self.held.drain(..until);
        out
    }

    /// What was held back.
    pub fn finish(self) -> Vec<u8> {
        match self.search {
            Some(search) => search
                .automaton
                .replace_all_bytes(&self.held, &vec![REDACTED; search.automaton.patterns_len()]),
            None => self.held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "hunter2/ü\"key+value";

    fn all_forms() -> Vec<String> {
        let padded = |before: &str| format!("{before}{SECRET}after");
        let mut forms = vec![
            SECRET.to_owned(),
            utf8_percent_encode(SECRET, NON_ALPHANUMERIC).to_string(),
            serde_json::to_string(&padded("x")).unwrap(),
            crate::canonical::hex(SECRET.as_bytes()),
        ];
        for before in ["", "a", "ab", "abc"] {
            forms.push(STANDARD_NO_PAD.encode(padded(before)));
            forms.push(URL_SAFE_NO_PAD.encode(padded(before)));
        }
        forms
    }

    #[test]
    fn a_secret_is_found_in_each_of_its_forms() {
        let known = Known::new([SECRET]);
        for form in all_forms() {
            let text = format!("before {form} after");
            let replaced = known.replace(&text);
            assert!(replaced.contains(REDACTED), "{form}");
            assert!(!replaced.contains("hunter2"), "{replaced}");
        }
        assert_eq!(known.replace("hunter"), "hunter");
    }

    #[test]
    fn every_line_of_a_secret_is_one_and_short_ones_are_none() {
        let known = Known::new(["first-line-1234\nsecond-line-5678", "short"]);
        assert_eq!(
            known.replace("x second-line-5678 y short"),
            "x [REDACTED] y short"
        );
        assert!(matches!(
            Known::new(["", "short"]).replace("short"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn words_are_no_secrets_and_the_password_of_a_url_is_found() {
        assert!(!is_searchable("postgres") && !is_searchable("short1") && is_searchable("p0stgres"));
        let known = Known::new(["postgres"]);
        assert_eq!(known.replace("postgres is away"), "postgres is away");
        let password = |url| url_password(url).unwrap_or_default();
        assert_eq!(
            password("postgres://u:p%40ss%2Fword@h:5/db?x=a@b:c@"),
            "p@ss/word"
        );
        assert_eq!(password("redis://:s3cret@h"), "s3cret");
        assert_eq!(password("redis://h:6379/0"), "");
    }

    proptest! {
        #[test]
        fn borders_of_pieces_hide_no_secret(cuts in prop::collection::vec(1_usize..9, 1..60), form in 0_usize..12) {
            let known = Known::new([SECRET, "another-secret-0123456789"]);
            let text = format!("aa {} bb another-secret-0123456789 cc", all_forms()[form]);
            let (mut chunks, mut out, mut rest) = (known.chunks(), vec![], text.as_bytes());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                out.extend(chunks.push(piece));
                rest = after;
                if rest.is_empty() { break; }
            }
            out.extend(chunks.finish());
            prop_assert_eq!(String::from_utf8(out).unwrap(), known.replace(&text).into_owned());
        }
    }
}
